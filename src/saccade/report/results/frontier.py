"""Which plans are worth their cost, and which of many to show (pure)."""

from __future__ import annotations

from collections.abc import Sequence

from saccade.report.results.model import ReadComparison, ScoredPlan


def frontier(points: Sequence[tuple[float, float]]) -> list[int]:
    """Points that no other beats: none costs as little and keeps as much, and one of the two better.

    Args:
        points: Cost and what is kept of each.

    Returns:
        Their numbers, cheapest first; of equal points the first.
    """
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1], i))
    best, found = float("-inf"), []
    for i in order:
        if points[i][1] > best:
            best = points[i][1]
            found.append(i)
    return found


def kept(entry: ScoredPlan) -> float | None:
    """What a plan kept of the dense model: above blind where a blind baseline ran, else plain retention."""
    above = entry.mean.get("retention_above_blind")
    # With a blind baseline, nothing above it means that there was nothing to keep.
    return entry.mean.get("retention") if entry.mean.get("blind") is None else above


def chosen(found: ReadComparison, most: int) -> list[ScoredPlan]:
    """At most so many plans to look at closely: the file's own choice, all if they are few, else the best.

    The best are those of the frontier of FLOPs and what is kept, spread over it.
    """
    named = [e for name in found.headline for e in found.entries if e.name == name]
    if named:
        return named[:most]
    if len(found.entries) <= most:
        return list(found.entries)
    priced = [
        (e, cost, k)
        for e in found.entries
        if (cost := e.cost.get("flops_ratio")) is not None and (k := kept(e)) is not None
    ]
    best = [priced[i][0] for i in frontier([(cost, k) for _, cost, k in priced])]
    if len(best) <= most:
        return best or list(found.entries[:most])
    return [best[round(i * (len(best) - 1) / max(1, most - 1))] for i in range(most)]
