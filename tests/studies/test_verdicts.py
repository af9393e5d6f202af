"""Verdicts follow from intervals alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saccade.evaluation.statistics import Interval
from saccade.studies.base import SLACK, VERDICTS, is_better, is_free

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
    ],
)
def test_free(seen, verdict):
    assert is_free(seen) == verdict


@given(st.lists(intervals, min_size=1, max_size=6))
def test_a_claim_is_never_supported_without_an_interval_that_says_so(seen):
    assert is_better(seen) in VERDICTS and is_free(seen) in VERDICTS
    if is_better(seen) == "supported":
        assert any(d.low > 0 for d in seen) and not any(d.high < 0 for d in seen)
    if is_free(seen) == "supported":
        assert all(d.low > -SLACK for d in seen)
    mirrored = [Interval(-d.value, -d.high, -d.low) for d in seen]
    opposite = {"supported": "not supported", "not supported": "supported"}
    assert is_better(mirrored) == opposite.get(is_better(seen), is_better(seen))
