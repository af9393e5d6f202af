"""What a study is: the plans it wants to see, what it makes of their answers, and how it tells that."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from saccade.evaluation.statistics import Interval, holm, p_value
from saccade.research.studies.bench import StudyBench
from saccade.research.studies.lines import Book, Line

Result = Mapping[str, Any]
"""A finished study as plain data."""

SLACK = 0.01
"""Loss of accuracy, one point, that still counts as none: no finite sample can show a loss of nothing."""
ASKED = "asked here, not by the papers"
"""Where a claim is made that no paper makes."""
VERDICTS = ("supported", "not supported", "mixed", "undecided")


@dataclass(frozen=True)
class Finding:
    """What a study says about a claim of a paper.

    Attributes:
        claim: The claim.
        source: Where it is made.
        verdict: One of ``VERDICTS``.
        found: What was seen, in a sentence with its numbers.
    """

    claim: str
    source: str
    verdict: str
    found: str

    def to_dict(self) -> dict[str, str]:
        """Plain dictionary for JSON."""
        return dict(vars(self))


@dataclass(frozen=True)
class Design:
    """What a study wants to see.

    Attributes:
        lines: Plans, or why there is none.
        facts: What was found on the way there (orders of layers, scores), as plain data.
    """

    lines: tuple[Line, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """One study; a file of this folder holds it under the name ``STUDY``.

    Attributes:
        name: Name on the command line.
        title: What it is called on pages.
        question: What it asks, in one sentence.
        design: Which plans it wants to see of a model; calibrates where it must.
        judge: Plain data from finished cells, beside what all studies tell (pure).
        draw: Pictures from the result, PNG bytes by name (pure).
        tell: Markdown from the result (pure).
        trains: Whether it trains models of its own instead of asking one that is given.
        layers: Layers that a model must have for it, at least.
        each_task: Whether it calibrates on every task alone, so that each needs pictures.
    """

    name: str
    title: str
    question: str
    design: Callable[[StudyBench], Design]
    judge: Callable[[Book, Design], dict[str, Any]]
    draw: Callable[[Result], dict[str, bytes]]
    tell: Callable[[Result], str]
    trains: bool = False
    layers: int = 1
    each_task: bool = False


def directions(differences: Sequence[Interval]) -> list[int]:
    """For each of several comparisons 1 if it lies above 0, -1 if below, 0 if that cannot be told.

    Of one comparison its 95 % interval decides. Of several, Holm's correction holds the chance that any of
    them is told from 0 by mistake to 5 %; left alone, one in twenty would be.
    """
    beyond = holm([p_value(difference) for difference in differences])
    return [
        told * (int((d.low or 0.0) > 0) - int((d.high or 0.0) < 0))
        for d, told in zip(differences, beyond, strict=True)
    ]


def corrected(comparisons: int) -> str:
    """What a comparison of several has to stand up to, for a finding's text."""
    if comparisons < 2:
        return "outside its 95 % interval"
    return f"by Holm's correction for {comparisons} comparisons (level 5 %)"


def is_harmless(difference: Interval) -> bool:
    """Whether a loss is at most ``SLACK``, outside its interval."""
    return difference.low is not None and difference.low > -SLACK


def is_better(differences: Sequence[Interval]) -> str:
    """Verdict on the claim that one thing beats another.

    Args:
        differences: Claimed better minus claimed worse, all comparisons that the claim rests on.

    Returns:
        ``supported`` if some are above 0 and none below (``directions``); ``not supported`` if it is the
        other way round; ``mixed`` if there are both, ``undecided`` if there are neither.
    """
    seen = directions(differences)
    good, bad = 1 in seen, -1 in seen
    return ("mixed" if bad else "supported") if good else ("not supported" if bad else "undecided")


def is_free(differences: Sequence[Interval]) -> str:
    """Verdict on the claim that something costs nothing, or ``SLACK`` at most.

    Args:
        differences: With it minus without it, all comparisons that the claim rests on.

    Returns:
        ``supported`` if all lose less than ``SLACK``, outside their intervals (all have to, so that needs no
        correction); else ``not supported`` if all are below 0 (``directions``), ``mixed`` if some are,
        ``undecided`` if none is, or there are none.
    """
    if not differences:
        return "undecided"
    if all(map(is_harmless, differences)):
        return "supported"
    worse = [
        seen < 0 and not is_harmless(d) for d, seen in zip(differences, directions(differences), strict=True)
    ]
    return "not supported" if all(worse) else "mixed" if any(worse) else "undecided"
