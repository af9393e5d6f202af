"""Lines of several methods at once: all of them at matched FLOPs, and which of them can run here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from saccade.evaluation.matched import RATIOS, lineup
from saccade.evaluation.runner import refusal
from saccade.methods import Method
from saccade.methods.kinds import TRAINED
from saccade.methods.reducer import Reducer
from saccade.plans.plan import Plan
from saccade.research.studies.bench import StudyBench
from saccade.research.studies.lines import Line

KEPT = ", positions kept"
"""What names and titles of lines with kept positions end with."""


def tried(bench: StudyBench, line: Line) -> Line:
    """The same line if its plan runs on one question, or a line that says why it does not."""
    if not isinstance(line.plan, Plan):
        return line
    (question,) = bench.questions.calibration(bench.tasks[0], 1)
    reason = refusal(bench.loaded, line.plan, question)
    return replace(line, plan=None, reason=reason) if reason else line


def matched(bench: StudyBench, orders: dict[str, Any], ratios: Sequence[float] = RATIOS) -> list[Line]:
    """Every method at matched FLOPs; those whose positions close up by default also with positions kept."""
    layouts, weights = bench.prompts()
    found = []
    for row in lineup(bench.loaded.shape, layouts, orders, weights, bench.loaded.family.name, ratios):
        if set(row.method.split("+")) & set(TRAINED):
            continue
        about = {key: value for key, value in row.to_dict().items() if key not in ("name", "spec", "reason")}
        line = tried(bench, Line(row.name, row.plan, about | {"positions": "authors"}, row.reason))
        found.append(line)
        if isinstance(line.plan, Plan) and any(_closes(method) for method in line.plan.methods):
            found.append(tried(bench, kept(line)))
    return found


def closes_up(bench: StudyBench, line: Line) -> bool | None:
    """Whether rows that stay get the positions of a prompt without the others; None if none are dropped."""
    assert isinstance(line.plan, Plan)
    reducers = [method for method in line.plan.methods if isinstance(method, Reducer)]
    if not reducers:
        return None
    can = bench.loaded.family.compact_positions
    return can and any(method.compact != "never" for method in reducers)


def kept(line: Line) -> Line:
    """A line with positions kept where its methods would close them up."""
    assert isinstance(line.plan, Plan)
    methods = tuple(
        replace(m, position_policy="keep") if _closes(m) else m  # type: ignore[call-arg]
        for m in line.plan.methods
    )
    about = {**line.about, "title": line.about["title"] + KEPT, "positions": "keep"}
    return Line(line.name + KEPT, Plan(methods), about)


def _closes(method: Method) -> bool:
    """Whether positions close up under a method as its authors have it."""
    return isinstance(method, Reducer) and method.compacts
