"""KL, its direction and its precision; orders and their ties."""

from __future__ import annotations

import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from saccade.calibration.measures import ascending, cosine_distance, first_below, kl, mean_sd, shuffled


def test_kl_of_two_coins_by_hand():
    full, tried = torch.tensor([0.5, 0.5]).log(), torch.tensor([[0.9, 0.1]]).log()
    perturbed_full = 0.9 * torch.tensor(0.9 / 0.5).log() + 0.1 * torch.tensor(0.1 / 0.5).log()
    full_perturbed = 0.5 * torch.tensor(0.5 / 0.9).log() + 0.5 * torch.tensor(0.5 / 0.1).log()
    torch.testing.assert_close(kl(full, tried)[0].float(), perturbed_full)
    torch.testing.assert_close(kl(full, tried, "full-perturbed")[0].float(), full_perturbed)


def test_default_direction_is_that_of_the_official_code():
    full, tried = torch.randn(50), torch.randn(3, 50)
    official = torch.nn.KLDivLoss(reduction="none")(
        torch.log_softmax(full, -1).expand(3, -1), torch.softmax(tried, -1)
    ).sum(-1)
    torch.testing.assert_close(kl(full, tried).float(), official)


def test_equal_logits_have_no_distance_and_a_shift_of_logits_changes_nothing():
    full = torch.randn(1000)
    assert kl(full, full[None]).item() == 0
    assert kl(full, full[None].double() + 7).item() < 1e-12
    assert cosine_distance(full, 3 * full[None]).item() < 1e-12


def test_half_precision_logits_are_upcast_before_the_softmax():
    full = (4 * torch.randn(32000)).to(torch.bfloat16)
    tried = full.clone()
    tried[:100] += 0.125
    exact = kl(full.double(), tried.double()[None])
    torch.testing.assert_close(kl(full, tried[None]), exact, atol=0, rtol=1e-9)
    coarse = (tried.softmax(-1) * (tried.log_softmax(-1) - full.log_softmax(-1))).sum().double()
    assert abs(coarse - exact[0]) > 100 * abs(kl(full, tried[None])[0] - exact[0])


def test_cosine_distance_of_opposite_and_orthogonal_logits():
    distance = cosine_distance(torch.tensor([1.0, 0.0]), torch.tensor([[-2.0, 0.0], [0.0, 3.0]]))
    torch.testing.assert_close(distance.float(), torch.tensor([2.0, 1.0]))


@given(st.lists(st.floats(-30, 30), min_size=2, max_size=20), st.randoms(use_true_random=False))
def test_kl_is_never_negative(logits, random):
    tried = [x + random.uniform(-1e-6, 1e-6) for x in logits]
    assert kl(torch.tensor(logits), torch.tensor([tried])).item() >= 0


def test_unknown_direction_is_refused():
    with pytest.raises(ValueError, match="perturbed-full"):
        kl(torch.zeros(3), torch.zeros(1, 3), "sideways")


def test_mean_and_spread_are_those_of_a_sample():
    rows = [[1.0, 0.0], [2.0, 0.0], [6.0, 0.0]]
    mean, sd = mean_sd(rows)
    assert mean == [3.0, 0.0]
    assert sd == pytest.approx([statistics.stdev([1, 2, 6]), 0.0])
    assert mean_sd([[5.0, 7.0]]) == ([5.0, 7.0], [0.0, 0.0])


def test_equal_scores_give_the_deeper_layer_first():
    assert ascending([0.2, 0.1, 0.2, 0.1, 0.0]) == (4, 3, 1, 2, 0)


@given(st.lists(st.floats(0, 5), min_size=1, max_size=40))
def test_an_order_is_a_permutation_that_never_descends(scores):
    order = ascending(scores)
    assert sorted(order) == list(range(len(scores)))
    ranked = [scores[layer] for layer in order]
    assert ranked == sorted(ranked)


def test_withdrawal_takes_the_first_layer_under_eta_even_if_a_later_one_is_above():
    scores = [0.5, 0.02, 0.003, 0.01, 0.001]
    assert first_below(scores, 0.003) == 2
    assert first_below(scores, 1e-4) == 5
    assert first_below(scores, 1.0) == 0


def test_a_shuffle_is_a_permutation_that_hangs_on_its_seed_alone():
    assert sorted(shuffled(12, 3)) == list(range(12))
    assert shuffled(12, 3) == shuffled(12, 3) != shuffled(12, 4)
