"""Tables of accuracy by task, whoever judged, and of what plans cost and kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from saccade.cli import common


def show(out: common.Output, found: dict[str, Any], scored_by: str) -> None:
    """Prints accuracy by task, and what the plans cost and kept.

    Args:
        out: Where to.
        found: ``dense`` and ``plans`` as dictionaries.
        scored_by: How answers were scored.
    """
    from rich.table import Table

    from saccade.plans.bill import tower_told
    from saccade.report.text import beside_blind, difference, interval, kept, percent

    plans, mean_dense = found["plans"], found["dense"]["mean"]
    view = Table("task", "n", "blind", "dense", *(e["name"] for e in plans))
    # A task may have any name, "mean" too.
    for name, dense in [*found["dense"]["tasks"].items(), (None, found["dense"]["mean"])]:
        scores = [e["mean"] if name is None else e["tasks"][name] for e in plans]
        if name is None:
            view.add_section()
        cells = [interval(s, "accuracy") for s in (dense, *scores)]
        view.add_row("mean" if name is None else name, str(dense["n"]), percent(dense["blind"]), *cells)
    out.table(view)
    if plans:
        heads = (
            "plan",
            "layers",
            "against dense",
            "retention",
            "above blind",
            "FLOPs",
            "whole FLOPs",
            "KV cache",
        )
        saved = Table(*heads)
        for e in plans:
            mean = e["mean"]
            saved.add_row(
                e["name"],
                layers_of(e["spec"]),
                difference(mean),
                kept(mean, "retention", mean_dense),
                kept(mean, "retention_above_blind", mean_dense),
                percent(e["cost"].get("flops_ratio")),
                percent(e["cost"].get("whole_ratio")),
                percent(e["cost"].get("kv_ratio")),
            )
        out.table(saved)
        out.line("FLOPs: the decoder's; whole: with the vision tower, the projector and the head")
        for e in plans:
            if told := tower_told(e["cost"].get("tower_share"), e["cost"].get("whole_ratio")):
                out.line(f"{e['name']}: {told}")
    if told := beside_blind(mean_dense, found["dense"]["tasks"]):
        out.line(told)
    out.line(
        f"scored by {scored_by}; in brackets 95 % intervals, against dense in points, paired by question"
    )


def layers_of(spec: str) -> str:
    """Where a plan works, of its spec: its layers, or the layer from which on."""
    from saccade.methods.base import write_value
    from saccade.plans.plan import Plan

    found = []
    for method in Plan.of(spec or "dense").methods:
        layers, first = getattr(method, "layers", None), getattr(method, "layer", None)
        if isinstance(layers, tuple):
            found.append(write_value(layers))
        else:
            found.append(f"from {first}" if first is not None else "before the first")
    return " + ".join(found) or "none"


def beside_dense(
    out: common.Output,
    title: str,
    dense: Mapping[str, Any],
    sections: Sequence[Sequence[Mapping[str, Any]]],
) -> None:
    """Prints mean accuracy and cost of plans between the dense and the blind model, then who has none.

    Args:
        out: Where to.
        title: What stands over the table.
        dense: Mean score of the dense model.
        sections: Plans by section; one without ``mean`` has a ``reason``.
    """
    from rich.table import Table

    from saccade.report.text import above_blind, beside_blind, difference, interval, kept, no_better, percent

    view = Table("plan", title=title, title_justify="left", title_style="bold")
    for head in ("accuracy", "against dense", "above blind", "FLOPs", "KV cache"):
        view.add_column(head, justify="right")
    view.add_row(
        "dense", interval(dense, "accuracy"), "", above_blind(dense), "100.0 %", "100.0 %", end_section=True
    )
    for entries in sections:
        for entry in (entry for entry in entries if entry.get("mean")):
            mean, cost = entry["mean"], entry["cost"]
            view.add_row(
                entry["name"],
                interval(mean, "accuracy"),
                difference(mean),
                kept(mean, "retention_above_blind", dense),
                percent(cost["flops_ratio"]),
                percent(cost["kv_ratio"]),
            )
        view.add_section()
    nothing = "" if no_better(dense) else "0.0 %"
    view.add_row("blind", percent(dense["blind"]), "", nothing, "", "")
    out.table(view)
    if told := beside_blind(dense):
        out.line(told)
    for entry in (entry for entries in sections for entry in entries if not entry.get("mean")):
        out.line(f"not in the table: {entry['name']}: {entry['reason']}")
