"""What a tuning tells beside its evaluation: what was asked, what held-out samples say, what was tried."""

from __future__ import annotations

from typing import Any

from saccade.report import tuned
from saccade.report.results.files import whole
from saccade.report.results.model import ReadFinding, StudyText
from saccade.report.text import lost


def told_of(data: Any, path: str) -> StudyText:
    """The text and the picture of what ``saccade tune`` writes.

    Raises:
        ValueError: If it is not whole, naming the file.
    """
    with whole(path, "saccade tune"):
        return StudyText(
            "tune",
            "The plan that was tuned",
            "Which plan loses least at this cost, or costs least within this loss, on these samples?",
            (_finding(data["tune"], data.get("refused") or ""),),
            tuned.tell(data),
            {"front": tuned.picture(data)},
        )


def _finding(told: dict[str, Any], refused: str) -> ReadFinding:
    """What was asked, and what held-out samples say of the plan that was chosen."""
    asked = told["asked"]
    wanted = ", ".join(f"{key} {value}" for key, value in asked.items() if key in _WANTED)
    claim = f"A plan with {wanted}"
    if refused:
        return ReadFinding(claim=claim, source="asked here", verdict="not supported", found=refused)
    chosen = told["chosen"]
    held = chosen["held_out"]
    found = (
        f"{told['spec']}: {100 * chosen['held_out_ratio']:.1f} % of the cost, {lost(held['loss'])} points "
        f"against dense on held-out samples, at worst {lost(held['bound'])}."
    )
    within = held.get("within")
    verdict = "undecided" if within is None else "supported" if within else "not supported"
    return ReadFinding(claim=claim, source="asked here", verdict=verdict, found=found)


_WANTED = ("flops", "time", "kv", "max_loss", "on")
