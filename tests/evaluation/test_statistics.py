"""Intervals against published values, limits, and simulated coverage."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saccade.evaluation.statistics import (
    UNDEFINED,
    Interval,
    holm,
    mcnemar,
    mean_of,
    mean_score,
    p_value,
    paired_difference,
    retention,
    wilson,
)


def test_wilson_equals_the_published_example():
    # Newcombe (1998), Table I: 81 of 263 gives 0.2553 to 0.3662; 0 of 20 gives 0 to 0.1611.
    found = wilson(81, 263)
    assert (round(found.low, 4), round(found.high, 4)) == (0.2553, 0.3662)
    none = wilson(0, 20)
    assert none.low == 0 and round(none.high, 4) == 0.1611


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_its_estimate_and_stays_a_proportion(case):
    found = wilson(*case)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.low < found.high


@pytest.mark.parametrize("case", [(1, 0), (3, 2), (-1, 2)])
def test_wilson_refuses_what_is_no_proportion(case):
    with pytest.raises(ValueError, match="correct"):
        wilson(*case)


def test_mean_of_one_task_is_that_task():
    one = wilson(17, 25)
    mean = mean_of([one])
    assert (mean.value, mean.low, mean.high) == pytest.approx((one.value, one.low, one.high))


def test_mean_over_tasks_is_narrower_than_a_task_and_weighs_tasks_alike():
    small, large = wilson(5, 10), wilson(900, 1000)
    mean = mean_of([small, large])
    assert mean.value == pytest.approx((0.5 + 0.9) / 2)
    assert mean.high - mean.low < small.high - small.low


def test_paired_difference_of_one_task_is_bonett_and_price():
    # 40 pairs, 8 gained, 2 lost: centre (9 - 3) / 42, variance (12/42 - (6/42)^2) / 42.
    pairs = [(True, False)] * 8 + [(False, True)] * 2 + [(True, True)] * 20 + [(False, False)] * 10
    found = paired_difference([pairs])
    centre, variance = 6 / 42, (12 / 42 - (6 / 42) ** 2) / 42
    assert found.value == pytest.approx(6 / 40)
    assert found.low == pytest.approx(centre - 1.959964 * math.sqrt(variance), abs=1e-6)
    assert found.high == pytest.approx(centre + 1.959964 * math.sqrt(variance), abs=1e-6)


def test_equal_answers_still_leave_an_interval():
    found = paired_difference([[(True, True)] * 25] * 4)
    assert found.value == 0 and found.low < 0 < found.high
    kept = retention([[(True, True, False)] * 25] * 4, above_blind=True)
    assert kept.value == 1 and kept.low < 1 < kept.high


def test_retention_above_blind_takes_guessing_off():
    # dense 80 %, blind 40 %, plan 60 %: half of what looking adds is left, three quarters of the accuracy.
    group = [(i < 60, i < 80, i < 40) for i in range(100)]
    assert retention([group], above_blind=False).value == pytest.approx(0.75)
    assert retention([group], above_blind=True).value == pytest.approx(0.5)


def test_retention_is_undefined_where_looking_adds_nothing():
    assert retention([[(True, False, True)] * 10], above_blind=True).value is None
    assert retention([[(False, False, False)] * 10], above_blind=False).value is None


def test_intervals_cover_what_they_promise():
    rng = random.Random(0)
    tasks, n, rounds = 4, 40, 400
    truth_difference = -0.15
    truth_retention = (0.7 - 0.25) / (0.85 - 0.25)
    hits = [0, 0]
    for _ in range(rounds):
        groups = []
        for _ in range(tasks):
            group = []
            for _ in range(n):
                u, b = rng.random(), rng.random() < 0.25
                group.append((u < 0.7, u < 0.85, b))
            groups.append(group)
        difference = paired_difference([[(a, d) for a, d, _ in g] for g in groups])
        kept = retention(groups, above_blind=True)
        hits[0] += difference.low <= truth_difference <= difference.high
        hits[1] += kept.low <= truth_retention <= kept.high
    assert all(0.92 <= hit / rounds <= 0.99 for hit in hits), hits


def test_mcnemar_is_the_exact_binomial_test():
    assert mcnemar(0, 0) == 1
    assert mcnemar(5, 5) == 1
    assert mcnemar(1, 9) == pytest.approx(2 * (1 + 10) / 2**10)
    assert mcnemar(0, 2000) < 1e-300 or mcnemar(0, 2000) == 0


def test_an_empty_task_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        paired_difference([[]])


@given(st.lists(st.booleans(), min_size=1, max_size=200))
def test_a_mean_of_right_or_wrong_answers_is_wilsons(answers):
    assert mean_score([float(a) for a in answers]) == wilson(sum(answers), len(answers))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60))
def test_a_mean_of_scores_stays_a_share_and_never_collapses(scores):
    found = mean_score(scores)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.low < found.high
    assert found.value == pytest.approx(sum(scores) / len(scores))


def test_scores_that_vary_less_than_right_or_wrong_are_known_better():
    coarse, fine = mean_score([0.0, 1.0] * 20), mean_score([0.4, 0.6] * 20)
    assert fine.high - fine.low < 0.4 * (coarse.high - coarse.low)
    # With many samples it is the plain interval of a mean.
    rng = random.Random(1)
    many = [rng.betavariate(2, 3) for _ in range(4000)]
    mean = sum(many) / len(many)
    error = math.sqrt(sum((x - mean) ** 2 for x in many) / len(many) / len(many))
    found = mean_score(many)
    assert found.low == pytest.approx(mean - 1.96 * error, abs=2e-4)
    assert found.high == pytest.approx(mean + 1.96 * error, abs=2e-4)


@pytest.mark.parametrize(("n", "zeros", "shape"), [(20, 0.3, (8, 1)), (40, 0.5, (5, 2)), (30, 0.0, (2, 2))])
def test_intervals_of_fractional_scores_cover_what_they_promise(n, zeros, shape):
    # ANLS in miniature: nothing, or a share that is often near one.
    rng = random.Random(2)
    truth = (1 - zeros) * shape[0] / sum(shape)
    hits = 0
    for _ in range(1500):
        found = mean_score([0.0 if rng.random() < zeros else rng.betavariate(*shape) for _ in range(n)])
        hits += found.low <= truth <= found.high
    assert 0.935 <= hits / 1500 <= 0.99, hits / 1500


def test_intervals_of_paired_fractional_scores_cover_what_they_promise():
    rng = random.Random(3)
    truth, hits = -0.1, 0
    for _ in range(600):
        pairs = []
        for _ in range(40):
            dense = rng.betavariate(6, 2)
            pairs.append((max(0.0, dense - rng.uniform(0, 0.2)), dense))
        found = paired_difference([pairs])
        hits += found.low <= truth <= found.high
    assert hits / 600 >= 0.95


@pytest.mark.parametrize("scores", [[], [1.5], [-0.1, 0.5], [math.nan]])
def test_scores_that_are_none_are_refused(scores):
    with pytest.raises(ValueError, match="from 0 to 1"):
        mean_score(scores)


def test_holm_steps_down_as_its_paper_does():
    # Levels 0.05 / 4, / 3, / 2, / 1; the third is above its own, so the fourth falls too.
    assert holm([0.04, 0.01, 0.016, 0.045]) == [False, True, True, False]
    assert holm([0.05]) == [True] and holm([0.051]) == [False] and holm([]) == []
    assert holm([0.013] * 4) == [False] * 4


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_lies_between_bonferroni_and_no_correction(p_values):
    for p, told in zip(p_values, holm(p_values), strict=True):
        assert told >= (p <= 0.05 / len(p_values)) and told <= (p <= 0.05)


def test_p_values_are_those_of_the_interval():
    assert p_value(Interval(0.1, 0.0, 0.2)) == pytest.approx(0.05)
    assert p_value(Interval(-0.1, -0.2, 0.0)) == pytest.approx(0.05)
    assert p_value(Interval(0.1, -0.1, 0.3)) == pytest.approx(math.erfc(0.5 * 1.959964 / math.sqrt(2)))
    assert p_value(UNDEFINED) == 1 and p_value(Interval(0.0, 0.0, 0.0)) == 1
    assert p_value(Interval(1.0, 1.0, 1.0)) == 0
