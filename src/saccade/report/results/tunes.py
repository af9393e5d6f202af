"""Tunings as the report's records: what ``saccade tune`` writes beside its plan."""

from __future__ import annotations

from typing import Any

from saccade.report import tuned
from saccade.report.results.evaluations import comparison, model_of, provenance
from saccade.report.results.fields import Fields
from saccade.report.results.model import ReadFinding, Result, StudyText
from saccade.report.text import points


def read_tuning(data: Any, path: str) -> Result:
    """A tuning: the front on held-out samples, what was searched, and the picture of all that was tried."""
    top = Fields.of(data, path)
    found, told = comparison(top), top.part("tune")
    try:
        own = StudyText(
            "tune",
            "The plan that was tuned",
            "Which plan loses least at this cost, or costs least within this loss, on these samples?",
            (_finding(told, top.text("refused", "")),),
            tuned.tell(data),
            {"front": tuned.picture(data)},
        )
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, StopIteration) as error:
        raise ValueError(
            f"{path} is not a whole result of saccade tune: {type(error).__name__} {error}"
        ) from error
    return Result(
        path, "tuning", model_of(top, None, found.dense.cost), provenance(top), {"": found}, told=own
    )


def _finding(told: Fields, refused: str) -> ReadFinding:
    """What was asked, and what held-out samples say of the plan that was chosen."""
    asked = told.part("asked")
    wanted = ", ".join(f"{key} {value}" for key, value in asked.data.items() if key in _WANTED)
    if refused:
        return ReadFinding(f"A plan with {wanted}", "asked here", "not supported", refused)
    chosen, held = told.part("chosen"), told.part("chosen").part("held_out")
    loss, bound = held.number("loss"), held.number("bound")
    found = (
        f"{told.text('spec')}: {100 * chosen.number('held_out_ratio'):.1f} % of the cost, "
        f"{points(-loss)} points against dense on held-out samples, at worst {points(-bound)}."
    )
    within = held.data.get("within")
    verdict = "undecided" if within is None else "supported" if within else "not supported"
    return ReadFinding(f"A plan with {wanted}", "asked here", verdict, found)


_WANTED = ("flops", "time", "kv", "max_loss", "on")
