"""The token merge, against a loop written from the paper's facts."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from saccade.core.merge import mean_merge, token_merge


def slow_merge(x_ND: torch.Tensor, keep: int) -> tuple[torch.Tensor, list[int]]:
    """One image, row by row: total similarity, sort, assign, average."""
    rows = x_ND.tolist()
    unit = [x / x.norm() for x in x_ND.double()]
    total = [sum(float(unit[i] @ unit[j]) for j in range(len(rows)) if j != i) for i in range(len(rows))]
    ranked = sorted(range(len(rows)), key=lambda i: (-total[i], i))
    joins, homes = ranked[: len(rows) - keep], ranked[len(rows) - keep :]
    members = {home: [home] for home in homes}
    for a in joins:
        members[max(homes, key=lambda b: (float(unit[a] @ unit[b]), -homes.index(b)))].append(a)
    return torch.stack([x_ND.double()[members[home]].mean(0) for home in homes]), homes


@pytest.mark.parametrize(("rows", "keep"), [(24, 6), (17, 9), (12, 12), (10, 1)])
def test_it_is_what_the_facts_say(rows, keep):
    x = torch.randn(3, rows, 8, generator=torch.Generator().manual_seed(rows))
    found = token_merge(x, keep)
    for b in range(3):
        if keep == rows:
            torch.testing.assert_close(found.rows_BKD[b], x[b])
            continue
        expected, homes = slow_merge(x[b], keep)
        assert found.homes_BK[b].tolist() == homes
        torch.testing.assert_close(found.rows_BKD[b].double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("rows", "keep"), [(1024, 256), (476, 156), (512, 156), (576, 576)])
def test_the_sum_of_all_rows_survives(rows, keep):
    x = torch.randn(2, rows, 16, generator=torch.Generator().manual_seed(1))
    found = token_merge(x, keep)
    assert found.rows_BKD.shape == (2, keep, 16)
    total = (found.sizes_BK[..., None] * found.rows_BKD).sum(1)
    torch.testing.assert_close(total, x.sum(1), atol=1e-3, rtol=1e-4)
    assert found.sizes_BK.sum(1).tolist() == [rows, rows]
    torch.testing.assert_close(found.weights_BKN @ x, found.rows_BKD, atol=1e-5, rtol=1e-5)


@given(st.integers(2, 30), st.data())
def test_every_row_is_in_one_cluster_and_ties_go_by_place(rows, data):
    keep = data.draw(st.integers(1, rows))
    repeats = data.draw(st.integers(1, 4))
    x = torch.randn(1, rows, 4, generator=torch.Generator().manual_seed(rows)).round()
    x = x[:, torch.arange(rows) // repeats]
    first, second = token_merge(x, keep), token_merge(x.clone(), keep)
    assert torch.equal(first.rows_BKD, second.rows_BKD)
    assert torch.equal((first.weights_BKN > 0).sum(1), torch.ones(1, rows, dtype=torch.long))


def test_raster_order_is_the_same_clusters_by_place():
    x = torch.randn(2, 20, 6, generator=torch.Generator().manual_seed(3))
    ranked, raster = token_merge(x, 7), token_merge(x, 7, order="raster")
    assert torch.equal(raster.homes_BK, ranked.homes_BK.sort(1).values)
    order = ranked.homes_BK.argsort(1)
    torch.testing.assert_close(
        ranked.rows_BKD.gather(1, order[..., None].expand(-1, -1, 6)), raster.rows_BKD, atol=1e-6, rtol=1e-6
    )


def test_the_means_take_gradient_and_the_choice_none():
    x = torch.randn(1, 9, 4, generator=torch.Generator().manual_seed(5), requires_grad=True)
    found = token_merge(x, 3)
    found.rows_BKD.sum().backward()
    share_1N = (1 / found.sizes_BK.float()[:, None] @ (found.weights_BKN > 0).float())[:, 0]
    torch.testing.assert_close(x.grad, share_1N[..., None].expand_as(x))


def test_mean_pooling_is_the_mean_of_neighbours():
    x = torch.arange(12.0).view(1, 12, 1)
    even, overlapping = mean_merge(x, 4), mean_merge(x, 5)
    assert even.rows_BKD.flatten().tolist() == [1, 4, 7, 10] == even.homes_BK[0].tolist()
    # Where runs cannot be equal they overlap by a row.
    assert overlapping.rows_BKD.flatten().tolist() == [1, 3, 5.5, 8, 10]
    assert overlapping.sizes_BK[0].tolist() == [3, 3, 4, 3, 3]


@given(st.integers(1, 40), st.data())
def test_weights_of_mean_pooling_say_what_it_did(rows, data):
    x = torch.randn(2, rows, 3, generator=torch.Generator().manual_seed(rows))
    found = mean_merge(x, data.draw(st.integers(1, rows)))
    torch.testing.assert_close(found.weights_BKN @ x, found.rows_BKD)
    assert torch.equal((found.weights_BKN > 0).sum(2), found.sizes_BK)
    at_home = found.weights_BKN.gather(2, found.homes_BK[..., None])
    assert bool((at_home > 0).all()) and bool((found.homes_BK.diff(dim=1) > 0).all())


@pytest.mark.parametrize("merge", [token_merge, mean_merge])
@pytest.mark.parametrize("keep", [0, 5])
def test_impossible_numbers_are_refused(merge, keep):
    with pytest.raises(ValueError, match="keeps 1 to all of 4 rows"):
        merge(torch.ones(1, 4, 2), keep)


def test_autocast_changes_nothing():
    """Rows that share most of their direction, as embeddings do: rounded products would order them anew."""
    torch.manual_seed(3)
    x = (torch.randn(2, 1, 64) * 3 + torch.randn(2, 70, 64)).bfloat16().requires_grad_(True)
    want = token_merge(x, 20)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = (x.float() @ x.float().mT).dtype
        found = token_merge(x, 20)
        found.rows_BKD.float().square().sum().backward()
    assert rounded == torch.bfloat16 and x.grad is not None and bool(x.grad.abs().sum() > 0)
    assert torch.equal(found.homes_BK, want.homes_BK) and torch.equal(found.rows_BKD, want.rows_BKD)
    assert torch.equal(found.weights_BKN, want.weights_BKN)
