"""Whether held-out samples prove that a plan loses no more than a margin, and how many it would take (pure).

The bounds are those of paired differences (Bonett and Price 2012), one-sided at 95 %, corrected for the
number of plans that were looked at (Bonferroni). Where several tasks have to hold, all of them have to, which
needs no further correction.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from saccade.evaluation.statistics import paired_difference

LEVEL = 0.05
"""Chance of taking any plan by mistake."""

MOST_NEEDED = 1_000_000
"""Samples beyond which a margin is called out of reach."""

Pairs = Sequence[tuple[float, float]]
"""Scores of the plan and of the dense model on the same questions."""


@dataclass(frozen=True)
class Verdict:
    """What held-out samples say of one plan.

    Attributes:
        loss: Mean score lost against the dense model, tasks of equal weight; below 0 where it gained.
        bound: Largest loss that the samples leave possible, on the mean.
        tasks: The same by task: loss and bound.
        within: Whether the loss is proven to be within the margin; None where no margin was asked.
        needed: Samples of every task that would prove it, if they went on like these; None where the loss
            seen is not within the margin, or none was asked.
    """

    loss: float
    bound: float
    tasks: Mapping[str, tuple[float, float]]
    within: bool | None = None
    needed: int | None = None


def quantile(candidates: int) -> float:
    """Normal quantile of a one-sided bound that is one of several."""
    return NormalDist().inv_cdf(1 - LEVEL / max(1, candidates))


def bound(groups: Sequence[Pairs], candidates: int = 1) -> float:
    """Largest mean loss that paired scores leave possible.

    Args:
        groups: For each task, scores of the plan and of the dense model.
        candidates: How many plans were looked at.
    """
    low = paired_difference(groups, quantile(candidates)).low or 0.0
    return min(1.0, -low)  # no mean of shares is below that, however few the samples


def judged(
    by_task: Mapping[str, Pairs], margin: float | None = None, candidates: int = 1, *, each: bool = True
) -> Verdict:
    """Judges a plan on held-out samples.

    Args:
        by_task: Scores of the plan and of the dense model, by task.
        margin: Loss that is allowed, as a share; None to judge none.
        candidates: How many plans were looked at.
        each: Whether every task has to be within the margin, not the mean alone.

    Raises:
        ValueError: If there are no samples.
    """
    if not by_task or not all(by_task.values()):
        raise ValueError("a plan is judged on at least one held-out sample of every task")
    groups = list(by_task.values())
    tasks = {task: (lost([pairs]), bound([pairs], candidates)) for task, pairs in by_task.items()}
    found = Verdict(lost(groups), bound(groups, candidates), tasks)
    if margin is None:
        return found
    sets = [[pairs] for pairs in groups] if each else [groups]
    within = all(bound(one, candidates) <= margin for one in sets)
    needs = [needed(one, margin, candidates) for one in sets]
    most = None if any(n is None for n in needs) else max(n for n in needs if n is not None)
    return Verdict(found.loss, found.bound, tasks, within, most)


def lost(groups: Sequence[Pairs]) -> float:
    """Mean score lost, groups of equal weight."""
    return sum(sum(d - p for p, d in pairs) / len(pairs) for pairs in groups) / len(groups)


def needed(groups: Sequence[Pairs], margin: float, candidates: int = 1) -> int | None:
    """Samples of every task with which the same differences would prove a margin.

    Args:
        groups: For each task, scores of the plan and of the dense model.
        margin: Loss that is allowed, as a share.
        candidates: How many plans are looked at.

    Returns:
        The number; None where the loss seen is not below the margin, or the number past ``MOST_NEEDED``.
    """
    gap = margin - lost(groups)
    if gap <= 0:
        return None
    z, k = quantile(candidates), len(groups)

    def proves(samples: int) -> bool:
        """As ``paired_difference`` on so many samples of every task, with the means that were seen."""
        centre = variance = 0.0
        for pairs in groups:
            mean = sum(p - d for p, d in pairs) / len(pairs)
            square = sum((p - d) ** 2 for p, d in pairs) / len(pairs)
            weight = samples + 2 / k
            middle = samples * mean / weight
            centre += middle / k
            variance += ((samples * square + 2 / k) / weight - middle * middle) / weight / k**2
        return centre - z * math.sqrt(max(variance, 0.0)) >= -margin

    low, high = 1, 2
    while not proves(high):
        low, high = high, high * 2
        if high > MOST_NEEDED:
            return None
    return bisect_left(range(high), True, lo=low, key=proves)
