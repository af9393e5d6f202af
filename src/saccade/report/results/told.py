"""What tunings and healings tell beside their evaluation: what was asked, and what held-out samples say."""

from __future__ import annotations

from typing import Any

from saccade.report import healed, tuned
from saccade.report.results.files import whole
from saccade.report.results.model import ReadFinding, StudyText
from saccade.report.text import difference, lost

ASKED = "asked here"
WANTED = ("flops", "time", "kv", "max_loss", "on")
"""What a tuning may be asked for."""


def of_tuning(data: Any, path: str) -> StudyText:
    """The text and the picture of what ``saccade tune`` writes.

    Raises:
        ValueError: If it is not whole, naming the file.
    """
    with whole(path, "saccade tune"):
        return StudyText(
            "tune",
            "The plan that was tuned",
            "Which plan loses least at this cost, or costs least within this loss, on these samples?",
            (_tuned(data["tune"], data.get("refused") or ""),),
            tuned.tell(data),
            {"front": tuned.picture(data)},
        )


def of_healing(data: Any, path: str) -> StudyText:
    """The text and the picture of what ``saccade heal`` writes.

    Raises:
        ValueError: If it is not whole, naming the file.
    """
    with whole(path, "saccade heal"):
        return StudyText(
            "heal",
            "The plan that was healed",
            "How much of what the plan lost did learning from the dense model bring back?",
            (_healed(data),),
            healed.tell(data),
            {"curve": healed.picture(data)},
        )


def _tuned(told: dict[str, Any], refused: str) -> ReadFinding:
    """What was asked, and what held-out samples say of the plan that was chosen."""
    wanted = ", ".join(f"{key} {value}" for key, value in told["asked"].items() if key in WANTED)
    claim = f"A plan with {wanted}"
    if refused:
        return ReadFinding(claim=claim, source=ASKED, verdict="not supported", found=refused)
    chosen = told["chosen"]
    held = chosen["held_out"]
    found = (
        f"{told['spec']}: {100 * chosen['held_out_ratio']:.1f} % of the cost, {lost(held['loss'])} points "
        f"against dense on held-out samples, at worst {lost(held['bound'])}."
    )
    within = held.get("within")
    verdict = "undecided" if within is None else "supported" if within else "not supported"
    return ReadFinding(claim=claim, source=ASKED, verdict=verdict, found=found)


def _healed(data: dict[str, Any]) -> ReadFinding:
    """Whether the plan after lies above the plan before, outside their intervals."""
    means = {one["name"]: one["mean"] for one in data["plans"]}
    before, after = means["before"], means["after"]
    gained = after["low"] is not None and before["high"] is not None and after["low"] > before["high"]
    worse = after["high"] is not None and before["low"] is not None and after["high"] < before["low"]
    verdict = "supported" if gained else "not supported" if worse else "undecided"
    found = f"Against dense {difference(before)} before, {difference(after)} after, on held-out questions."
    return ReadFinding(claim="Healing brings accuracy back", source=ASKED, verdict=verdict, found=found)
