"""The order of a set, against Python's own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from saccade.core.pivots import set_order


@pytest.mark.e2e
@given(st.integers(1, 24), st.data())
def test_it_is_the_order_in_which_python_walks(size, data):
    top = data.draw(st.sampled_from([30, 64, 700, 3000, 1 << 20]))
    rows = st.lists(st.integers(0, top), min_size=size, max_size=size, unique=True)
    sets = data.draw(st.lists(rows, min_size=1, max_size=3))
    numbers = torch.tensor(sets)
    assert numbers.gather(1, set_order(numbers)).tolist() == [list(set(one)) for one in sets]


@pytest.mark.parametrize("step", [8, 32, 128, 1024])
def test_numbers_that_want_the_same_place_are_no_exception(step):
    for size in (4, 5, 8, 12, 18, 19, 30):
        rows = [7 + step * n for n in range(size)][::-1]
        numbers = torch.tensor(rows)[None, None]
        assert numbers.gather(2, set_order(numbers)).flatten().tolist() == list(set(rows))


def test_equal_numbers_stand_together_in_the_order_given():
    numbers = torch.tensor([5, 3, 5, 3])
    order = set_order(numbers[None])[0].tolist()
    assert [rows for n in set(numbers.tolist()) for rows in range(4) if numbers[rows] == n] == order
