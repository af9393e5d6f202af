"""Draws are seeded, without replacement, and stratified where asked."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.vlm import picture, question
from saccade.calibration import data_hash, draw

POOL = [question(i, images=0, task=t, subtask=s) for t in "xy" for s in ("a", "b", "c") for i in range(6)]


@pytest.mark.parametrize("how", ["global", "stratified"])
@given(n=st.integers(1, len(POOL)), seed=st.integers(0, 1000))
def test_a_draw_repeats_nothing_and_hangs_on_its_seed(how, n, seed):
    drawn = draw(POOL, n, how, seed)
    ids = [sample.id for sample in drawn]
    assert len(ids) == n == len(set(ids))
    assert ids == [sample.id for sample in draw(POOL, n, how, seed)]


@given(n=st.integers(1, len(POOL)), seed=st.integers(0, 1000))
def test_a_stratified_draw_takes_from_every_subtask_alike(n, seed):
    counts = Counter((sample.task, sample.subtask) for sample in draw(POOL, n, "stratified", seed))
    taken = [counts[t, s] for t in "xy" for s in "abc"]
    assert max(taken) - min(taken) <= 1


def test_a_stratified_draw_goes_on_when_a_group_is_used_up():
    pool = [question(i, images=0, subtask="big") for i in range(9)] + [question(9, images=0, subtask="small")]
    counts = Counter(sample.subtask for sample in draw(pool, 6, "stratified"))
    assert counts == {"big": 5, "small": 1}


def test_seeds_draw_differently():
    assert len({tuple(s.id for s in draw(POOL, 5, "global", seed)) for seed in range(20)}) > 15


@pytest.mark.parametrize(
    ("n", "how", "match"),
    [
        (37, "global", "asked for 37 samples, but there are 36"),
        (0, "global", "at least one"),
        (3, "odd", "stratified"),
    ],
)
def test_what_cannot_be_drawn_is_refused(n, how, match):
    with pytest.raises(ValueError, match=match):
        draw(POOL, n, how)


def test_nothing_to_draw_from_is_refused():
    with pytest.raises(ValueError, match="no samples"):
        draw([], 1)


def test_the_data_hash_sees_questions_pixels_and_order():
    one, two = question(1), question(2)
    base = data_hash([one, two])
    assert base == data_hash([question(1), question(2)])
    changed = [
        [two, one],
        [one],
        [replace(one, question="why?"), two],
        [replace(one, images=(picture(99),)), two],
        [replace(one, images=one.images * 2), two],
    ]
    assert len({base, *map(data_hash, changed)}) == 6
