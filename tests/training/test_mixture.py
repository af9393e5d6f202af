"""The order of a run: weights are met, and only the seed decides."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saccade.training.mixture import Mixture, Stream, steps_of
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


@given(sources, st.integers(0, 99), st.integers(0, 5))
def test_every_record_is_seen_as_often_as_its_weight_says(pools, seed, epoch):
    mixture = Mixture(pools, seed)
    order = mixture.order(epoch)
    assert len(order) == len(mixture)
    seen = Counter(order)
    for number, pool in enumerate(pools):
        times = [seen[number, index] for index in range(len(pool))]
        assert sum(times) == round(len(pool) * pool.weight)
        assert set(times) <= {math.floor(pool.weight), math.floor(pool.weight) + 1}
    assert mixture.order(epoch) == order == Mixture(pools, seed).order(epoch)


def test_a_weight_below_one_shows_every_record_in_the_end():
    mixture = Mixture([Fake(20, 0.25)], seed=0)
    seen = Counter(key for epoch in range(200) for key in mixture.order(epoch))
    assert len(seen) == 20 and min(seen.values()) > 25 and max(seen.values()) < 80


@given(st.integers(1, 100))
def test_the_stream_is_the_epochs_one_after_another(length):
    mixture = Mixture([Fake(7, 1.0), Fake(4, 0.5)], seed=3)
    keys = list(Stream(mixture, length))
    assert len(keys) == length == len(Stream(mixture, length))
    for epoch in range(math.ceil(length / 9)):
        mine = [(source, index) for source, index, e in keys if e == epoch]
        assert mine == mixture.order(epoch)[: len(mine)]
        assert len(mine) == min(9, length - 9 * epoch)


def test_a_bad_record_comes_back_as_the_reason():
    mixture = Mixture([Fake(5, 1.0)], seed=0)
    assert mixture[0, 2, 4] == (2, 4)
    assert isinstance(mixture[0, 3, 0], BadRecord)


def test_epochs_become_steps():
    assert steps_of(100, None, 7, 8) == 7
    assert steps_of(100, 1.0, None, 8) == 13
    assert steps_of(100, 0.5, None, 10) == 5
    assert steps_of(3, 0.1, None, 10) == 1
    with pytest.raises(ValueError, match="mixture is empty"):
        Stream(Mixture([Fake(1, 0.2)], 0), 4)
