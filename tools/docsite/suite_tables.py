"""The docs' tables of what embedded models score on their suite, and whether they can show a difference."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from docsite.glance_tables import load, missing
from saccade.report.markdown import markdown
from saccade.report.text import interval, percent
from saccade.system.embedded import GAZE, GLANCE, Embedded


def tasks(model: Embedded, results: Path) -> str:
    """Accuracy on each task, dense, blind and under plans, from a file such as ``gaze_eval.json``."""
    path = results / f"{model.name}_eval.json"
    found = load(path)
    if found is None:
        return missing(f"saccade eval {model.name} --samples 1000 --json benchmarks/results/{path.name}")
    plans = found["plans"]

    def row(name: str, dense: Mapping[str, Any], scores: Sequence[Mapping[str, Any]]) -> list[str]:
        under = [percent(score["accuracy"]) for score in scores]
        return [name, str(dense["n"]), percent(dense["blind"]), interval(dense, "accuracy"), *under]

    dense = found["dense"]
    rows = [row(task, score, [p["tasks"][task] for p in plans]) for task, score in dense["tasks"].items()]
    rows.append(row("**mean**", dense["mean"], [p["mean"] for p in plans]))
    return markdown(("task", "n", "blind", "dense", *(f"`{p['name']}`" for p in plans)), rows)


def gate(model: Embedded, results: Path) -> str:
    """Whether a model can show a difference, line by line, from ``difference_gate.json`` or Gaze's own."""
    path = results / f"difference_gate{'' if model is GLANCE else f'_{model.name}'}.json"
    found = load(path)
    if found is None:
        return missing(
            f"python benchmarks/difference_gate.py --model {model.name} --out benchmarks/results/{path.name}"
        )
    rows = [
        [line["what"], line["wanted"], line["found"], "yes" if line["passed"] else "**no**"]
        for line in found["lines"]
    ]
    return markdown(("what", "wanted", "found", "passed"), rows, right_from=9)


SUITE_TABLES: dict[str, Callable[[Path], str]] = {
    "glance-tasks": functools.partial(tasks, GLANCE),
    "gaze-tasks": functools.partial(tasks, GAZE),
    "gate": functools.partial(gate, GLANCE),
    "gate-gaze": functools.partial(gate, GAZE),
}
"""Tables by the name in the marker."""
