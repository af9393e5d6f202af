"""``saccade methods``: what can be planned, from the registry."""

from __future__ import annotations

import types
import typing
from dataclasses import MISSING, fields
from typing import Any

import typer

from saccade.cli import common


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("methods")(methods)


def methods(json: common.Json = None) -> None:
    """List the methods: parameters and defaults, what they save, presets, papers.

    Example: saccade methods --json methods.json
    """
    out = common.Output(json)
    rows = table()
    from rich.table import Table

    view = Table("spec name", "title", "saves", "parameters", "presets", "families", "paper")
    for row in rows:
        parameters = "\n".join(_parameter(p) for p in row["parameters"])
        presets = "\n".join(row["presets"]) or "-"
        families = "\n".join(row["families"])
        view.add_row(
            row["name"], row["title"], ", ".join(row["saves"]), parameters, presets, families, row["paper"]
        )
        view.add_section()
    out.table(view)
    out.line(
        "Write them as NAME(KEY=VALUE,...), joined by +, for example: shortv(layers=20-31)+vtw(layer=28)"
    )
    out.finish({"methods": rows})


def _parameter(entry: dict[str, Any]) -> str:
    default = "" if entry["default"] is None else f" = {entry['default']}"
    return f"{entry['name']}: {entry['type']}{default}"


def table() -> list[dict[str, Any]]:
    """One entry per registered method, as plain data."""
    from saccade.families import FAMILIES
    from saccade.methods import METHODS

    families = sorted({family.name for family in FAMILIES.values()})
    found = []
    for name, cls in sorted(METHODS.items()):
        hints = typing.get_type_hints(cls)
        parameters = [
            {
                "name": f.name,
                "type": type_name(hints[f.name]),
                "default": None if f.default is MISSING else f.default,
            }
            for f in fields(cls)
        ]
        found.append(
            {
                "name": name,
                "title": cls.title,
                "paper": cls.paper,
                "summary": (cls.__doc__ or "").strip().split("\n")[0],
                "saves": list(cls.saves),
                "calibration": cls.score,
                "parameters": parameters,
                "presets": sorted(getattr(cls, "presets", {})),
                "families": families,
            }
        )
    return found


def type_name(hint: Any) -> str:
    """A parameter's type in words a user writes: ``number``, ``whole number``, ``layers`` or its choices."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(type_name(h) for h in typing.get_args(hint) if h is not type(None))
    if typing.get_origin(hint) is tuple:
        return "layers"
    if typing.get_origin(hint) is typing.Literal:
        return " or ".join(map(str, typing.get_args(hint)))
    return {int: "whole number", float: "number", str: "name", bool: "true or false"}.get(hint, str(hint))
