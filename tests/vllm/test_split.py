"""Rows of a step against a slow account of every request on its own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saccade.vllm.split import shown_at, text_rows, text_runs

REQUESTS = st.lists(
    st.tuples(st.lists(st.booleans(), min_size=1, max_size=7), st.integers(0, 5)), min_size=1, max_size=5
)
"""Of every request which of its rows in the step are visual, and how many were computed before."""


def laid_out(requests):
    visual = np.array([one for rows, _ in requests for one in rows], dtype=bool)
    starts = np.cumsum([0, *(len(rows) for rows, _ in requests)])
    lengths = np.array([computed + len(rows) for rows, computed in requests])
    return visual, starts, lengths


@given(REQUESTS)
def test_runs_are_what_a_walk_over_the_rows_finds(requests):
    walked = []
    for number, (rows, computed) in enumerate(requests):
        run = 0
        for place, visual in enumerate([*rows, True]):
            if visual and run:
                walked.append((run, computed + place, number))
            run = 0 if visual else run + 1
    found = text_runs(*laid_out(requests))
    assert list(zip(np.diff(found.starts_S1), found.lengths_S, found.request_S, strict=True)) == walked


@given(REQUESTS)
def test_text_rows_are_counted_request_by_request(requests):
    visual, starts, _ = laid_out(requests)
    found = text_rows(visual, starts)
    text = [[n for n, one in enumerate(rows) if not one] for rows, _ in requests]
    assert found.count_Q.tolist() == [len(rows) for rows in text]
    assert found.request_S.tolist() == [number for number, rows in enumerate(text) if rows]
    assert np.diff(found.starts_S1).tolist() == [len(rows) for rows in text if rows]
    walked = [(number, nth) for number, rows in enumerate(text) for nth in range(len(rows))]
    assert list(zip(found.request_T, found.nth_T, strict=True)) == walked


@given(REQUESTS)
def test_what_is_read_at_a_row_is_the_last_text_row_of_its_request_up_to_it(requests):
    visual, starts, _ = laid_out(requests)
    found, text_before, at = shown_at(visual, starts), 0, 0
    for rows, _ in requests:
        own = 0
        for one in rows:
            own += not one
            if own:
                assert found[at] == text_before + own - 1
            assert 0 <= found[at] <= max(int((~visual).sum()) - 1, 0)
            at += 1
        text_before += own


def test_padding_requests_at_the_end_have_no_runs():
    found = text_runs(np.array([False, True, False]), np.array([0, 3, 3, 3]), np.array([5, 0, 0]))
    assert (found.starts_S1.tolist(), found.lengths_S.tolist(), found.request_S.tolist()) == (
        [0, 1, 2],
        [3, 5],
        [0, 0],
    )


@pytest.mark.parametrize("visual", [True, False])
def test_a_step_of_one_kind_alone(visual):
    found = text_runs(np.full(4, visual), np.array([0, 1, 4]), np.array([9, 3]))
    assert found.request_S.tolist() == ([] if visual else [0, 1])
    assert found.starts_S1.tolist() == ([0] if visual else [0, 1, 4])
