"""Verdicts follow from intervals alone."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saccade.evaluation.statistics import Interval, paired_difference
from saccade.research.studies.base import SLACK, VERDICTS, corrected, directions, is_better, is_free

intervals = st.lists(st.floats(-1, 1), min_size=3, max_size=3).map(
    lambda v: Interval(*(sorted(v)[i] for i in (1, 0, 2)))
)
GOOD, BAD, OPEN = Interval(0.1, 0.05, 0.15), Interval(-0.1, -0.15, -0.05), Interval(0.0, -0.1, 0.1)
NONE = Interval(-0.001, -0.002, -0.0005)


@pytest.mark.parametrize(
    ("seen", "verdict"),
    [
        ([GOOD, OPEN], "supported"),
        ([BAD, OPEN], "not supported"),
        ([GOOD, BAD], "mixed"),
        ([OPEN], "undecided"),
    ],
)
def test_better(seen, verdict):
    assert is_better(seen) == verdict


@pytest.mark.parametrize(
    ("seen", "verdict"),
    [
        ([NONE, GOOD], "supported"),
        ([OPEN, NONE], "undecided"),
        ([BAD], "not supported"),
        ([BAD, NONE], "mixed"),
        ([], "undecided"),
    ],
)
def test_free(seen, verdict):
    assert is_free(seen) == verdict


@given(st.lists(intervals, min_size=1, max_size=6))
def test_a_claim_is_never_supported_without_an_interval_that_says_so(seen):
    assert is_better(seen) in VERDICTS and is_free(seen) in VERDICTS
    if is_better(seen) == "supported":
        assert any(d.low > 0 for d in seen) and -1 not in directions(seen)
    if is_free(seen) == "supported":
        assert all(d.low > -SLACK for d in seen)
    mirrored = [Interval(-d.value, -d.high, -d.low) for d in seen]
    opposite = {"supported": "not supported", "not supported": "supported"}
    assert is_better(mirrored) == opposite.get(is_better(seen), is_better(seen))


def compared(rng, comparisons, better=0.0, n=300):
    """Paired differences of plans that differ on one question in ten; the first wins ``better`` more."""
    found = []
    for _ in range(comparisons):
        split = [(1.0, 0.0) if rng.random() < 0.5 + better / 2 else (0.0, 1.0) for _ in range(n // 10)]
        found.append(paired_difference([[*split, *[(1.0, 1.0)] * (n - len(split))]]))
    return found


@pytest.mark.parametrize("comparisons", [4, 24, 68])
def test_equals_are_rarely_told_apart_however_many_comparisons_there_are(comparisons):
    rng, runs = random.Random(comparisons), 60
    seen = [compared(rng, comparisons) for _ in range(runs)]
    better = Counter(is_better(each) for each in seen)
    # 5 % of 60 are 3; more than 9 come by chance once in a thousand.
    assert better["undecided"] >= runs - 9, better
    assert sum(is_free(each) not in ("undecided", "supported") for each in seen) <= 9
    if comparisons > 4:
        alone = sum(any(is_better([one]) != "undecided" for one in each) for each in seen)
        assert alone > runs / 2


def test_what_is_clearly_better_is_still_found_among_many_equals():
    rng = random.Random(0)
    for _ in range(20):
        seen = directions([*compared(rng, 30), *compared(rng, 2, better=1.0)])
        assert seen[-2:] == [1, 1]


def test_a_finding_says_what_it_was_held_against():
    assert corrected(1) == "outside its 95 % interval"
    assert "Holm" in corrected(12) and "12 comparisons" in corrected(12)
