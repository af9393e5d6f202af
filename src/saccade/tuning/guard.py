"""Whether held-out samples prove that a plan loses no more than a margin, and how many it would take (pure).

The bounds are those of paired differences (Bonett and Price 2012), one-sided at 95 %, corrected for the
number of plans that were looked at (Bonferroni). Where a plan hardly ever gains, those hold two to four times
less often than they say, the more so far out where corrections lead: a loss must therefore also be below the
exact bound of a proportion (Clopper and Pearson 1934), which is what the mean of scores is that are only ever
lost. Where several tasks have to hold, all of them have to, which needs no further correction.
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
    size = int(len(groups) ** 2 / sum(1 / len(pairs) for pairs in groups) + 1e-9)
    least = _proportion(lost(groups), max(1, size), LEVEL / max(1, candidates))
    return min(1.0, max(-low, least))  # no mean of shares is below that, however few the samples


def _proportion(loss: float, samples: int, level: float) -> float:
    """Largest share of losses of which so few samples are lost with that chance, if none gains."""
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if _so_few(loss, samples, middle) <= level else (middle, high)
    return high


def _so_few(loss: float, samples: int, share: float) -> float:
    """Chance that no more than a mean of ``loss`` is lost of some samples that each are with some chance."""
    most = math.ceil(loss * samples - 1e-9)
    if most < 0 or most >= samples or share >= 1:
        return 0.0 if most < samples else 1.0
    ways = math.lgamma(samples + 1) - math.lgamma(most + 1) - math.lgamma(samples - most + 1)
    term = math.exp(ways + most * math.log(share) + (samples - most) * math.log1p(-share))
    total = 0.0
    for lost_ones in range(most, -1, -1):
        total += term
        term *= lost_ones * (1 - share) / ((samples - lost_ones + 1) * share)
        if term < total * 1e-12:
            break
    return total


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
    # Where the dense model scores no more than may be lost, nothing that a plan does is a proof; all may be
    # lost only by who says so.
    vain = margin < 1 and proves_nothing(sets, margin)
    within = not vain and all(bound(one, candidates) <= margin for one in sets)
    needs = [needed(one, margin, candidates) for one in sets]
    most = None if any(n is None for n in needs) else max(n for n in needs if n is not None)
    return Verdict(found.loss, found.bound, tasks, within, most)


def proves_nothing(sets: Sequence[Sequence[Pairs]], margin: float) -> bool:
    """Whether a plan that gets all of it wrong would still be within a margin, in every set of tasks."""
    return all(
        sum(sum(dense for _, dense in pairs) / len(pairs) for pairs in groups) / len(groups) <= margin
        for groups in sets
    )


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
        """As ``bound`` on so many samples of every task, with the means that were seen."""
        if _so_few(lost(groups), samples * k, margin) > LEVEL / max(1, candidates):
            return False
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
