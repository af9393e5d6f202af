"""Tables of accuracy by task, whoever judged, and of what plans cost and kept."""

from __future__ import annotations

from typing import Any

from saccade.cli import common


def show(out: common.Output, found: dict[str, Any], scored_by: str) -> None:
    """Prints accuracy by task, and what the plans cost and kept.

    Args:
        out: Where to.
        found: ``dense`` and ``plans`` as dictionaries.
        scored_by: How answers were scored.
    """
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    from saccade.report.text import interval, percent, points

    plans = found["plans"]
    view = Table("task", "n", "blind", "dense", *(escape(e["name"]) for e in plans))
    for name, dense in [*found["dense"]["tasks"].items(), ("mean", found["dense"]["mean"])]:
        scores = [e["mean"] if name == "mean" else e["tasks"][name] for e in plans]
        if name == "mean":
            view.add_section()
        cells = [interval(s, "accuracy") for s in (dense, *scores)]
        view.add_row(name, str(dense["n"]), percent(dense["blind"]), *cells)
    out.table(view)
    if plans:
        kept = Table("plan", "layers", "against dense", "retention", "above blind", "FLOPs", "KV cache")
        for e in plans:
            mean = e["mean"]
            low, high = points(mean["difference_low"]), points(mean["difference_high"])
            kept.add_row(
                Text(e["name"]),
                Text(e["spec"]),
                f"{points(mean['difference'])} ({low} to {high})",
                interval(mean, "retention"),
                interval(mean, "retention_above_blind"),
                percent(e["cost"].get("flops_ratio")),
                percent(e["cost"].get("kv_ratio")),
            )
        out.table(kept)
    out.line(
        f"scored by {scored_by}; in brackets 95 % intervals, against dense in points, paired by question"
    )
