"""The order of a run: weights are met, and only the seed decides."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saccade.training.mixture import RecordMixture, Stream, steps_of, warmup_of
from saccade.training.records import BadRecord


@dataclass
class Fake:
    """A source of numbers."""

    size: int
    weight: float
    name: str = "fake"
    refused: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return self.size

    def load(self, index, epoch):
        if index == 3:
            raise BadRecord("number 3 is bad")
        return (index, epoch)

    def describe(self):
        return {}


sources = st.lists(
    st.tuples(st.integers(1, 30), st.floats(0.1, 3.0, allow_nan=False)).map(lambda x: Fake(*x)),
    min_size=1,
    max_size=4,
)


def share_of(pool):
    return pool.size * Fraction(str(pool.weight))


@given(sources, st.integers(0, 99), st.integers(0, 5))
def test_every_record_is_seen_as_often_as_its_weight_says(pools, seed, epoch):
    mixture = RecordMixture(pools, seed)
    order = mixture.order(epoch)
    seen = Counter(order)
    for number, pool in enumerate(pools):
        times = [seen[number, index] for index in range(len(pool))]
        assert abs(sum(times) - share_of(pool)) < 1
        assert set(times) <= {math.floor(pool.weight), math.floor(pool.weight) + 1}
    assert mixture.order(epoch, 3) == order[:3]
    assert mixture.order(epoch) == order == RecordMixture(pools, seed).order(epoch)


small = st.lists(
    st.tuples(st.integers(1, 40), st.floats(0.003, 2.5, allow_nan=False)).map(lambda x: Fake(*x)),
    min_size=1,
    max_size=3,
)


@given(small, st.integers(0, 99), st.integers(1, 60))
def test_over_many_epochs_a_source_is_seen_as_often_as_its_weight_says(pools, seed, epochs):
    mixture = RecordMixture(pools, seed)
    seen = Counter(source for epoch in range(epochs) for source, _ in mixture.order(epoch))
    for number, pool in enumerate(pools):
        assert 0 <= epochs * share_of(pool) - seen[number] < 1


@pytest.mark.parametrize(
    ("size", "weight", "every"), [(40, 0.01, (0, 0, 1, 0, 1)), (1, 0.5, (0, 1, 0, 1, 0))]
)
def test_a_small_source_comes_up_again_and_again(size, weight, every):
    mixture = RecordMixture([Fake(7, 1.0), Fake(size, weight)], seed=5)
    found = [sum(source for source, _ in mixture.order(epoch)) for epoch in range(5)]
    assert tuple(found) == every


@pytest.mark.parametrize("seed", [0, 7])
def test_whole_weights_are_seen_in_the_order_they_always_were(seed):
    """Trained models rest on it: records as often as weights say, in the order of one permutation."""
    mixture = RecordMixture([Fake(5, 1.0), Fake(3, 2.0)], seed)
    keys = [(0, n) for n in range(5)] + [(1, n) for n in range(3)] * 2
    for epoch in range(3):
        places = np.random.default_rng((seed, epoch, 19)).permutation(11)
        assert mixture.order(epoch) == [keys[place] for place in places]
    assert len(mixture) == mixture.per_epoch == 11


def test_a_source_that_would_never_be_seen_is_refused():
    mixture = RecordMixture([Fake(10, 1.0), Fake(4, 0.1, "rare")], seed=0)
    with pytest.raises(ValueError, match=r"rare would never be seen: 4 records .*first one in epoch 3"):
        Stream(mixture, 20)
    # From the third epoch on it has its place.
    assert any(source for source, _, _ in Stream(mixture, 31))


def test_a_weight_below_one_shows_every_record_in_the_end():
    mixture = RecordMixture([Fake(20, 0.25)], seed=0)
    seen = Counter(key for epoch in range(200) for key in mixture.order(epoch))
    assert len(seen) == 20 and min(seen.values()) > 25 and max(seen.values()) < 80


@given(st.integers(1, 100))
def test_the_stream_is_the_epochs_one_after_another(length):
    mixture = RecordMixture([Fake(7, 1.0), Fake(5, 0.5)], seed=3)
    keys = list(Stream(mixture, length))
    assert len(keys) == length == len(Stream(mixture, length))
    whole = [(source, index, e) for e in range(12) for source, index in mixture.order(e)]
    assert keys == whole[:length]


def test_a_bad_record_comes_back_as_the_reason():
    mixture = RecordMixture([Fake(5, 1.0)], seed=0)
    assert mixture[0, 2, 4] == (2, 4)
    assert isinstance(mixture[0, 3, 0], BadRecord)


def test_epochs_become_steps():
    assert steps_of(100, None, 7, 8) == 7
    assert steps_of(100, 1.0, None, 8) == 13
    assert steps_of(100, 0.5, None, 10) == 5
    assert steps_of(3, 0.1, None, 10) == 1
    assert steps_of(10.5, 2.0, None, 7) == 3
    with pytest.raises(ValueError, match="less than one record per epoch"):
        Stream(RecordMixture([Fake(1, 0.2)], 0), 4)


@pytest.mark.parametrize(
    ("warmup", "steps", "rise"),
    [(0, 9, 0), (0.0, 9, 0), (3, 9, 3), (12, 9, 12), (0.03, 100, 3), (0.03, 1, 0), (0.99, 2, 1)],
)
def test_a_share_of_warmup_leaves_a_step(warmup, steps, rise):
    assert warmup_of(warmup, steps) == rise
