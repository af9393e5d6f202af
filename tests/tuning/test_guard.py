"""Bounds hold as often as they say, and the samples that are said to be needed are enough."""

from __future__ import annotations

import math

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


@pytest.mark.parametrize("candidates", [1, 6])
@pytest.mark.parametrize(("samples", "margin"), [(233, 0.01), (340, 0.01), (260, 0.02), (45, 0.1)])
def test_a_plan_that_only_loses_is_taken_no_oftener_either(samples, margin, candidates):
    def chance(lost_ones: int) -> float:
        worse, same = margin + 1e-9, 1 - margin - 1e-9
        return math.comb(samples, lost_ones) * worse**lost_ones * same ** (samples - lost_ones)

    taken, lost_ones = 0.0, 0
    while bound([[(0.0, 1.0)] * lost_ones + [(1.0, 1.0)] * (samples - lost_ones)], candidates) <= margin:
        taken, lost_ones = taken + chance(lost_ones), lost_ones + 1
    assert taken <= 0.05 / candidates


def test_where_the_dense_model_is_right_no_oftener_than_may_be_lost_nothing_is_proven():
    wrong, right = [(0.0, 0.0)] * 990 + [(0.0, 1.0)] * 10, [(1.0, 1.0)] * 1000
    assert not judged({"one": wrong}, 0.02).within
    assert judged({"one": wrong, "two": right}, 0.02).within and judged({"one": wrong}, 1.0).within
    assert judged({"one": wrong, "two": right}, 0.4, each=False).within


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
    # Where nothing changed, the rule of three.
    assert needed([[(1.0, 1.0)] * 5], 0.01) == 299 and needed([[(1.0, 1.0)] * 5] * 2, 0.01) == 150


def test_no_samples_judge_nothing():
    for pairs in ({}, {"one": []}):
        with pytest.raises(ValueError, match="at least one held-out sample"):
            judged(pairs)
