"""Row sets made ready for tensors: what is taken, put back and split into calls is what a mask says."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from saccade.core.rows import MAX_SLICES, RowIndex, runs


@st.composite
def masks(draw, full_rows: int | None = None):
    """Boolean (batch, rows): shared by the batch or ragged, empty and full ones included."""
    batch, rows = draw(st.integers(1, 4)), full_rows or draw(st.integers(1, 30))
    row = st.one_of(
        st.just([False] * rows), st.just([True] * rows), st.lists(st.booleans(), min_size=rows, max_size=rows)
    )
    if draw(st.booleans()):
        return torch.tensor([draw(row)] * batch)
    return torch.tensor([draw(row) for _ in range(batch)])


def values(mask_BN: torch.Tensor, width: int = 3) -> torch.Tensor:
    return torch.randn(*mask_BN.shape, width, generator=torch.Generator().manual_seed(0)) + 5


@given(masks())
def test_put_of_take_is_the_masked_tensor(mask_BN):
    x_BND, index = values(mask_BN), RowIndex.from_mask(mask_BN)
    taken = index.take(x_BND)
    assert taken.shape == (mask_BN.shape[0], index.count, 3)
    assert torch.equal(index.put(taken), x_BND * mask_BN[..., None])


@given(masks())
def test_taken_rows_stand_in_order(mask_BN):
    x_BND, index = values(mask_BN), RowIndex.from_mask(mask_BN)
    taken = index.take(x_BND)
    for b, row in enumerate(mask_BN):
        assert torch.equal(taken[b, : int(row.sum())], x_BND[b, row])


@given(masks())
def test_apply_is_the_masked_module(mask_BN):
    x_BND, index = values(mask_BN), RowIndex.from_mask(mask_BN)
    linear = torch.nn.Linear(3, 2, bias=True)
    with torch.no_grad():
        torch.testing.assert_close(index.apply(linear, x_BND), linear(x_BND) * mask_BN[..., None])


@given(masks())
def test_apply_hands_over_no_row_too_many(mask_BN):
    index, seen = RowIndex.from_mask(mask_BN), []

    def rowwise(x):
        seen.append(x.shape[:-1].numel())
        return x

    index.apply(rowwise, values(mask_BN))
    assert seen == [int(mask_BN.sum())]


@given(masks())
def test_gradients_reach_the_selected_rows_alone(mask_BN):
    index = RowIndex.from_mask(mask_BN)
    for way in (lambda x: index.put(index.take(x) * 2), lambda x: index.apply(lambda y: y * 2, x)):
        x_BND = values(mask_BN).requires_grad_()
        y_BND = way(x_BND)
        if not mask_BN.any():
            assert not y_BND.any()
            continue
        y_BND.sum().backward()
        assert torch.equal(x_BND.grad, 2.0 * mask_BN[..., None].expand_as(x_BND))


@given(masks())
def test_fields_agree_with_the_mask(mask_BN):
    index = RowIndex.from_mask(mask_BN)
    assert index.count == int(mask_BN.sum(1).max())
    assert (index.valid_BR is None) == bool((mask_BN.sum(1) == index.count).all())
    shared = bool((mask_BN == mask_BN[0]).all())
    assert (index.slices is not None) == (shared and len(runs(mask_BN[0])) <= MAX_SLICES)


def test_one_slice_is_a_view():
    mask_BN = torch.zeros(2, 6, dtype=torch.bool)
    mask_BN[:, 1:4] = True
    x_BND = values(mask_BN)
    assert RowIndex.from_mask(mask_BN).take(x_BND).data_ptr() == x_BND[:, 1:].data_ptr()


def test_a_batch_of_one_serves_every_sample():
    """Rotary tables come as a batch of one."""
    mask_BN = torch.tensor([[True, False, True], [False, True, False]])
    x_1ND = torch.arange(3.0).view(1, 3, 1)
    assert RowIndex.from_mask(mask_BN).take(x_1ND)[..., 0].tolist() == [[0, 2], [1, 0]]


@given(st.lists(st.booleans(), max_size=30))
def test_runs_cover_the_true_rows(row):
    found = runs(torch.tensor(row, dtype=torch.bool))
    assert [i for a, b in found for i in range(a, b)] == [i for i, on in enumerate(row) if on]
    assert all(b < c for (_, b), (c, _) in pairwise(found)) and all(a < b for a, b in found)


@pytest.mark.parametrize(
    "mask_BN", [torch.zeros(2, 4, dtype=torch.bool), torch.zeros(1, 0, dtype=torch.bool)]
)
def test_nothing_selected(mask_BN):
    index = RowIndex.from_mask(mask_BN)
    assert index.count == 0 and index.take(values(mask_BN)).shape[1] == 0
    assert not index.put(index.take(values(mask_BN))).any()
