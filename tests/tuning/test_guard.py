"""Bounds hold as often as they say, and the samples that are said to be needed are enough."""

from __future__ import annotations

import numpy as np
import pytest

from saccade.evaluation.statistics import paired_difference
from saccade.tuning.guard import bound, judged, lost, needed, quantile


def drawn(rng, tasks: int, samples: int, worse: float, better: float) -> dict[str, list[tuple[float, float]]]:
    found = {}
    for task in range(tasks):
        luck = rng.random(samples)
        pairs = [(0.0, 1.0) if x < worse else (1.0, 0.0) if x < worse + better else (1.0, 1.0) for x in luck]
        found[f"t{task}"] = pairs
    return found


def test_the_bound_is_that_of_the_paired_difference_one_sided():
    pairs = [(1.0, 1.0)] * 90 + [(0.0, 1.0)] * 6 + [(1.0, 0.0)] * 4
    assert quantile(1) == pytest.approx(1.6449, abs=1e-4) and quantile(5) == pytest.approx(2.3263, abs=1e-4)
    assert lost([pairs]) == pytest.approx(0.02)
    assert bound([pairs]) == pytest.approx(-paired_difference([pairs], quantile(1)).low)
    assert bound([pairs]) < bound([pairs], 3) < bound([pairs], 10)


@pytest.mark.parametrize("candidates", [1, 4])
def test_a_plan_that_loses_more_is_taken_no_oftener_than_it_may_be(candidates):
    rng = np.random.default_rng(0)
    taken = 0
    for _ in range(400):
        # All of them lose exactly the margin: none may be proven within it.
        each = [drawn(rng, 2, 150, 0.05, 0.03) for _ in range(candidates)]
        taken += any(judged(one, 0.02, candidates, each=False).within for one in each)
    assert taken / 400 <= 0.05 + 0.02


def test_every_task_has_to_hold_where_tasks_are_given():
    good, bad = [(1.0, 1.0)] * 400, [(1.0, 1.0)] * 380 + [(0.0, 1.0)] * 20
    pairs = {"one": good, "two": good, "three": bad}
    assert judged(pairs, 0.04, each=False).within and not judged(pairs, 0.04).within
    assert judged(pairs).within is None and judged(pairs, 0.04).needed is None
    assert set(judged(pairs, 0.04).tasks) == {"one", "two", "three"}


def test_the_samples_that_are_needed_are_enough_and_no_fewer():
    pairs = [(1.0, 1.0)] * 97 + [(0.0, 1.0)] * 2 + [(1.0, 0.0)]
    number = needed([pairs, pairs], 0.03, 2)
    assert number is not None and number > 100

    def repeated(samples: int) -> list[tuple[float, float]]:
        worse, better = round(0.02 * samples), round(0.01 * samples)
        return [(0.0, 1.0)] * worse + [(1.0, 0.0)] * better + [(1.0, 1.0)] * (samples - worse - better)

    whole = -(-number // 100) * 100
    assert bound([repeated(whole)] * 2, 2) <= 0.03 < bound([repeated(whole - 100)] * 2, 2)
    assert needed([pairs], 0.01) is None and needed([pairs], 0.02) is not None
    # Where nothing changed, a few hundred samples are still needed for a point.
    assert 200 < (needed([[(1.0, 1.0)] * 5], 0.01) or 0) < 300


def test_no_samples_judge_nothing():
    for pairs in ({}, {"one": []}):
        with pytest.raises(ValueError, match="at least one held-out sample"):
            judged(pairs)
