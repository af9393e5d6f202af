"""A page for every registered method, from its docstring, its fields and the result files."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from docsite.glance_tables import BUDGET, FAMILY, load
from saccade.evaluation.matched import KINDS, kind_of
from saccade.methods import METHODS, BudgetMethod, Method
from saccade.report.catalogue import SHARED, described
from saccade.report.markdown import markdown
from saccade.report.text import interval, percent, points

SAVES = {
    "prefill": "FLOPs of the prefill",
    "kv": "KV cache",
    "decode": "time of every decoded token",
}
ABOUT = {
    "plain": "A plain baseline: it looks at nothing. Other methods earn their scores by beating it.",
    "before": "Rows are chosen before the decoder's first layer.",
    "decoder": "Rows are chosen inside the decoder, once its first layers have run.",
    "layers": "All rows stay; in chosen layers the image's rows skip work.",
}
"""What each kind of method has in common."""


def page(name: str, results: Path) -> str:
    """The page of a method.

    Args:
        name: Its spec name.
        results: Folder of result files.
    """
    cls = METHODS[name]
    about = ABOUT[kind_of(name, 32)]
    parts = [
        f"# {cls.title}",
        f"{f'[Paper]({cls.paper}) · ' if cls.paper else ''}spec name `{name}` · {KINDS[kind_of(name, 32)]}",
        _prose(cls),
        about,
        "## What it saves",
        "\n".join(f"- {SAVES.get(kind, kind)}" for kind in cls.saves),
        "## Parameters",
        _parameters(cls),
        *_presets(cls),
        "## Try it",
        "```sh\n" + "\n".join(examples(name, results)) + "\n```",
        *_measured(name, results),
    ]
    return "\n\n".join(parts) + "\n"


def examples(name: str, results: Path) -> list[str]:
    """Commands to try the method with: its price, and its accuracy where it is known to run on Glance.

    Args:
        name: Its spec name.
        results: Folder of result files.
    """
    cls: Any = METHODS[name]
    by_budget = issubclass(cls, BudgetMethod)
    spec = f"{name}({'budget=4' if by_budget else ''})"
    price = f"saccade cost llava-1.5-7b --plan '{spec}'"
    runs = by_budget or any(row.get("mean") for row in _lines(load(results / f"{FAMILY}.json"), name))
    task = "--task count --task word --samples 50"
    return [price, f"saccade eval glance --plan '{spec}' {task}"] if runs else [price]


def _lines(found: Mapping[str, Any] | None, name: str) -> list[Mapping[str, Any]]:
    """A method's lines in a study on the embedded model; none where there is no result."""
    return [] if found is None else [line for line in found["plans"] if line["method"] == name]


def _prose(cls: type[Method]) -> str:
    """The docstring, without its list of fields."""
    text = inspect.cleandoc(cls.__doc__ or "").split("\nAttributes:")[0].strip()
    return text.replace("``", "`")


def attributes(cls: type) -> dict[str, str]:
    """What the docstrings of a class and its bases say about fields, the class's own words first."""
    found: dict[str, str] = {}
    for base in cls.__mro__:
        doc = inspect.cleandoc(base.__doc__ or "")
        if "Attributes:\n" not in doc:
            continue
        lines = re.split(r"\n\S", doc.split("Attributes:\n", 1)[1])[0]
        for entry in re.split(r"\n?^    (?=\w+: )", lines, flags=re.MULTILINE):
            key, _, words = entry.partition(": ")
            if key.strip():
                found.setdefault(key.strip(), " ".join(words.split()).replace("``", "`"))
    return found


def _parameters(cls: type[Method]) -> str:
    told = attributes(cls)
    rows = []
    for one in described(cls):
        words = told.get(one.name, "").replace("|", "\\|")
        rows.append([f"`{one.name}`", one.type, one.value or "not set", words])
    shared = ", ".join(f"`{one.name}`" for one in described(cls) if one.name in SHARED)
    note = f"\n\nShared with other methods: {shared}." if shared else ""
    return markdown(("name", "type", "default", "meaning"), rows, right_from=9) + note


def _presets(cls: Any) -> list[str]:
    presets: Mapping[str, Any] = getattr(cls, "presets", {})
    if not presets:
        return []
    listed = "\n".join(f"- `{cls.name}(preset={key})`: {_value(value)}" for key, value in presets.items())
    return ["## Published layers", listed]


def _value(value: Any) -> str:
    from saccade.methods.base import write_value

    return f"layers {write_value(value)}" if isinstance(value, tuple) else f"{value}"


def _measured(name: str, results: Path) -> list[str]:
    """Its lines in the comparisons on the embedded model: at matched FLOPs, and by budget."""
    parts = []
    found = load(results / f"{FAMILY}.json")
    rows = _lines(found, name)
    if rows:
        parts += _table([row for row in rows if row.get("mean")], found["dense"]["mean"])
        absent = dict.fromkeys(f"- {row['name']}: {row['reason']}" for row in rows if not row.get("mean"))
        parts += ["\n".join(absent)] * bool(absent)
    found = load(results / f"{BUDGET}.json")
    rows = [row for row in _lines(found, name) if row["budget"]]
    if rows:
        parts += _table(rows, found["dense"]["mean"])
    return ["## On the embedded model", *parts, "[All methods side by side](index.md)."] if parts else []


def _table(rows: Sequence[Mapping[str, Any]], dense: Mapping[str, Any]) -> list[str]:
    if not rows:
        return []
    head = ("plan", "accuracy", "against dense", "above blind", "FLOPs", "KV cache")
    cells = []
    for row in rows:
        mean, cost = row["mean"], row["cost"]
        low, high = points(mean["difference_low"]), points(mean["difference_high"])
        against = f"{points(mean['difference'])} ({low} to {high})"
        kept = interval(mean, "retention_above_blind")
        ratios = (percent(cost["flops_ratio"]), percent(cost["kv_ratio"]))
        cells.append([f"`{row['spec']}`", interval(mean, "accuracy"), against, kept, *ratios])
    note = (
        f"{dense['n']} questions; dense {interval(dense, 'accuracy')}, blind {percent(dense['blind'])}; 95 % "
        "intervals."
    )
    return [markdown(head, cells), note]
