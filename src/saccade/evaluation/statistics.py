"""Intervals for accuracies, paired differences and retentions (pure).

All intervals are of 95 % unless ``z`` says otherwise. Plain normal intervals collapse to a point when
nothing was missed or nothing changed; these do not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

Z95 = 1.959963984540054


@dataclass(frozen=True)
class Interval:
    """An estimate with its limits; ``None`` where it is not defined.

    Attributes:
        value: The estimate.
        low: Lower limit.
        high: Upper limit.
    """

    value: float | None
    low: float | None
    high: float | None


UNDEFINED = Interval(None, None, None)


def wilson(correct: float, n: float, z: float = Z95) -> Interval:
    """Wilson's score interval of a proportion (Wilson 1927).

    Raises:
        ValueError: If there are no trials, or more successes than trials.
    """
    if n <= 0 or not 0 <= correct <= n:
        raise ValueError(f"a proportion needs 0 <= correct <= n and n > 0, got {correct} of {n}")
    p, zz = correct / n, z * z
    centre = (p + zz / (2 * n)) / (1 + zz / n)
    half = z / (1 + zz / n) * math.sqrt(p * (1 - p) / n + zz / (4 * n * n))
    return Interval(p, min(p, max(0.0, centre - half)), max(p, min(1.0, centre + half)))


def mean_score(values: Sequence[float], z: float = Z95) -> Interval:
    """Mean of scores from 0 to 1, with limits that fit right-or-wrong scores and fractional ones alike.

    Wilson's interval at an effective sample size: n over the ratio of the variance of the scores to that of
    right-or-wrong scores with the same mean (the design effect of Kish 1965), with one observation more of
    ratio 1, so that equal scores do not collapse to a point. Right-or-wrong scores give Wilson's interval.

    Raises:
        ValueError: If there are no scores, or one is not from 0 to 1.
    """
    if not values or not all(0 <= value <= 1 for value in values):
        raise ValueError("a mean of scores needs at least one, each from 0 to 1")
    n, total = len(values), math.fsum(values)
    p = min(1.0, total / n)
    if all(value in (0, 1) for value in values) or not 0 < p < 1:
        return wilson(min(total, n), n, z)
    ratio = math.fsum((value - p) ** 2 for value in values) / n / (p * (1 - p))
    effective = n * (n + 1) / (n * ratio + 1)
    found = wilson(p * effective, effective, z)
    return Interval(p, min(p, found.low or 0.0), max(p, found.high or 0.0))


def mean_of(parts: Sequence[Interval]) -> Interval:
    """Mean of independent means, their limits combined by MOVER (Zou and Donner 2008).

    With one part it is that part. Each weighs the same, whatever its sample count.
    """
    if not parts or any(p.value is None for p in parts):
        return UNDEFINED
    known = [(p.value or 0.0, p.low or 0.0, p.high or 0.0) for p in parts]
    k = len(known)
    mean = sum(v for v, _, _ in known) / k
    down = math.sqrt(sum((v - low) ** 2 for v, low, _ in known)) / k
    up = math.sqrt(sum((high - v) ** 2 for v, _, high in known)) / k
    return Interval(mean, mean - down, mean + up)


def paired_difference(groups: Sequence[Sequence[tuple[float, float]]], z: float = Z95) -> Interval:
    """Mean over groups of (first minus second) score on the same questions.

    The limits are Bonett and Price's (2012): one pseudo-count in each discordant cell, here shared evenly
    among the groups, so that one group of right-or-wrong
    scores gives exactly their interval.

    Args:
        groups: For each task, pairs of scores from 0 to 1.
        z: Normal quantile of the wanted coverage.

    Raises:
        ValueError: If a group is empty.
    """
    return _ratio([[(float(a), float(b), 0.0) for a, b in group] for group in groups], z, known=1.0)


def p_value(difference: Interval, z: float = Z95) -> float:
    """Two-sided p-value of a difference against 0, from a normal interval's limits; 1 if it is undefined.

    Args:
        difference: A difference with its limits.
        z: Normal quantile that the limits were made with.
    """
    if difference.low is None or difference.high is None:
        return 1.0
    centre, half = (difference.low + difference.high) / 2, (difference.high - difference.low) / 2
    if half <= 0:
        return float(centre == 0)
    return 2 * NormalDist().cdf(-abs(centre) / half * z)


def holm(p_values: Sequence[float], level: float = 0.05) -> list[bool]:
    """Which of several comparisons differ, so that any is said to by mistake with at most this probability.

    Holm's step-down correction (1979): the smallest p-value is held against level / n, the next against
    level / (n - 1), and so on up to the first that is above.
    """
    found = [False] * len(p_values)
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if p_values[index] > level / (len(p_values) - place):
            break
        found[index] = True
    return found


def retention(
    groups: Sequence[Sequence[tuple[float, float, float]]], above_blind: bool, z: float = Z95
) -> Interval:
    """What is left of the accuracy: a / dense, or (a - blind) / (dense - blind), of means over tasks.

    The limits are the delta method on paired samples (the denominator is estimated too), with the same
    pseudo-counts as ``paired_difference``.

    Args:
        groups: For each task, triples of scores from 0 to 1: plan, dense, blind.
        above_blind: Whether the blind accuracy is taken off both.
        z: Normal quantile of the wanted coverage.

    Returns:
        An undefined interval where the denominator is not above 0.
    """
    return _ratio(
        [[(float(a), float(d), float(b) * above_blind) for a, d, b in group] for group in groups], z
    )


def _ratio(
    groups: Sequence[Sequence[tuple[float, float, float]]], z: float, known: float | None = None
) -> Interval:
    if not groups or any(not group for group in groups):
        raise ValueError("every task needs at least one sample")
    k = len(groups)
    top = sum(sum(a - b for a, _, b in g) / len(g) for g in groups) / k
    bottom = sum(sum(d - b for _, d, b in g) / len(g) for g in groups) / k
    if known is not None:
        value, scale = top - bottom, known
    elif bottom <= 0:
        return UNDEFINED
    else:
        value, scale = top / bottom, bottom
    slope = 1.0 if known is not None else value
    centre = variance = 0.0
    for group in groups:
        errors = [((a - b) - slope * (d - b)) / scale for a, d, b in group]
        weight = len(group) + 2 / k
        mean = sum(errors) / weight
        square = (sum(e * e for e in errors) + 2 / k / scale**2) / weight
        centre += mean / k
        variance += (square - mean * mean) / weight / k**2
    if known is None:
        centre = value
    half = z * math.sqrt(max(variance, 0.0))
    return Interval(value, min(value, centre - half), max(value, centre + half))


def mean_retention(groups: Sequence[Sequence[tuple[float, float]]], z: float = Z95) -> Interval:
    """Mean over tasks of accuracy / dense accuracy, as papers average benchmarks of unlike scales.

    The limits are the delta method on paired samples, with the same pseudo-counts as ``paired_difference``.

    Args:
        groups: For each task, pairs of scores from 0 to 1: plan, dense.
        z: Normal quantile of the wanted coverage.

    Returns:
        An undefined interval where the dense model scores nothing on a task.

    Raises:
        ValueError: If there is no task, or a task has no sample.
    """
    if not groups or any(not group for group in groups):
        raise ValueError("every task needs at least one sample")
    k = len(groups)
    value = variance = 0.0
    for group in groups:
        bottom = sum(dense for _, dense in group) / len(group)
        if bottom <= 0:
            return UNDEFINED
        ratio = sum(a for a, _ in group) / len(group) / bottom
        errors = [(a - ratio * dense) / bottom for a, dense in group]
        weight = len(group) + 2 / k
        square = (sum(e * e for e in errors) + 2 / k / bottom**2) / weight
        value += ratio / k
        variance += square / weight / k**2
    half = z * math.sqrt(variance)
    return Interval(value, max(0.0, value - half), value + half)


def mcnemar(gained: int, lost: int) -> float:
    """Exact two-sided McNemar test: how likely a split this uneven is if the two models were equals.

    Args:
        gained: Questions that the first model answered better.
        lost: Questions that the second model answered better.
    """
    n, k = gained + lost, min(gained, lost)
    if n == 0:
        return 1.0
    whole = math.lgamma(n + 1) - n * math.log(2)
    return min(
        1.0, 2 * sum(math.exp(whole - math.lgamma(i + 1) - math.lgamma(n - i + 1)) for i in range(k + 1))
    )
