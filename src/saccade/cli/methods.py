"""``saccade methods``: what can be planned, from the registry."""

from __future__ import annotations

import typer

from saccade.cli import common

SAVES = {"prefill": "prefill FLOPs", "kv": "KV cache", "decode": "decoding"}


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("methods")(methods)


def methods(json: common.Json = None) -> None:
    """List the methods: parameters and defaults, what they save, presets, families, papers.

    Example: saccade methods --json methods.json
    """
    out = common.Output(json)
    from rich.table import Table

    from saccade.families import abilities
    from saccade.methods import METHODS
    from saccade.report.catalogue import SHARED, catalogue, described

    can = dict(sorted(abilities().items()))
    rows, families = catalogue(can), list(can)
    view = Table("spec name", "title", "saves", "parameters", "presets", "families", "paper")
    for column in (view.columns[0], view.columns[-1]):
        column.no_wrap = True  # they are copied from here
    for row in rows:
        parameters = [p for p in described(METHODS[row["name"]]) if p.name not in SHARED]
        view.add_row(
            row["name"],
            row["title"],
            "\n".join(SAVES.get(kind, kind) for kind in row["saves"]),
            "\n".join(f"{p.name}: {p.type}{f' = {p.value}' if p.value else ''}" for p in parameters),
            "\n".join(row["presets"]) or "-",
            "all" if row["families"] == families else "\n".join(row["families"]),
            row["paper"] or "-",
        )
        view.add_section()
    out.table(view)
    out.line(
        "Write them as NAME(KEY=VALUE,...), joined by +: fastv(layer=3,keep=0.5)+vskip(layers=20-31)\n"
        "keep is what stays: a fraction up to 1, or a number of rows of every image.\n"
        "All take flops=RATIO instead of their dial: the mildest setting that reaches this share of FLOPs.\n"
        "Those that drop rows also take of=found or original (what a fraction is of) and\n"
        "position_policy=keep or compact (whether positions close up; by default as the authors did).\n"
        f"Families: {', '.join(families)}."
    )
    out.finish({"methods": rows, "families": families})
