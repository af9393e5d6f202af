"""What a healing tells beside its evaluation: whether it brought anything back, and what it took."""

from __future__ import annotations

from typing import Any

from saccade.report import healed
from saccade.report.results.files import whole
from saccade.report.results.model import ReadFinding, StudyText
from saccade.report.text import difference


def told_of(data: Any, path: str) -> StudyText:
    """The text and the picture of what ``saccade heal`` writes.

    Raises:
        ValueError: If it is not whole, naming the file.
    """
    with whole(path, "saccade heal"):
        return StudyText(
            "heal",
            "The plan that was healed",
            "How much of what the plan lost did learning from the dense model bring back?",
            (_finding(data),),
            healed.tell(data),
            {"curve": healed.picture(data)},
        )


def _finding(data: dict[str, Any]) -> ReadFinding:
    before, after = (
        {one["name"]: one["mean"] for one in data["plans"]}[name] for name in ("before", "after")
    )
    gained = after["low"] is not None and before["high"] is not None and after["low"] > before["high"]
    worse = after["high"] is not None and before["low"] is not None and after["high"] < before["low"]
    verdict = "supported" if gained else "not supported" if worse else "undecided"
    return ReadFinding(
        claim="Healing brings accuracy back",
        source="asked here",
        verdict=verdict,
        found=f"Against dense {difference(before)} before, {difference(after)} after, on held-out questions.",
    )
