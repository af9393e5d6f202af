"""The theory: printed bounds fail where they must, corrected ones hold against brute force."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from research.analysis.toys import attention_map, draw, head, local_constant, norm2, swiglu
from saccade.core.merge import token_merge
from saccade.research.analysis import bounds

SEEDS = st.integers(0, 10_000)


def printed(query, key, value):
    return bounds.lipschitz_attention(norm2(query), norm2(key), norm2(value), query.shape[1], "paper")


def local(x, query, key, value, causal=False, rope=False):
    weights = norm2(attention_map(x, query, key, causal, rope))
    states = float(x.norm()) if rope else norm2(x)
    return bounds.lipschitz_attention(
        norm2(query), norm2(key), norm2(value), query.shape[1], weights=weights, states=states
    )


def test_without_queries_the_printed_attention_bound_is_zero_and_the_values_still_change():
    x, key, value = draw(0, (6, 8), (8, 8), (8, 8))
    query = torch.zeros(8, 8, dtype=torch.float64)
    measured = local_constant(head(query, key, value), x)
    assert printed(query, key, value) == 0 and measured > 0.5
    assert measured <= local(x, query, key, value) * (1 + 1e-9)


def test_orthogonal_weights_exceed_what_corollary_9_1_allows():
    x, *square = draw(1, (8, 8), (8, 8), (8, 8), (8, 8))
    query, key, value = (torch.linalg.qr(one).Q for one in square)
    measured = local_constant(head(query, key, value), x)
    assert printed(query, key, value) == pytest.approx(1 / math.sqrt(8))
    assert measured > 3 * printed(query, key, value)
    assert measured <= local(x, query, key, value) * (1 + 1e-9)


@settings(max_examples=30)
@given(SEEDS, st.integers(1, 6), st.floats(0.05, 3), st.booleans(), st.booleans())
def test_the_local_attention_bound_holds(seed, rows, scale, causal, rope):
    x, query, key, value = draw(seed, (rows, 6), (6, 4), (6, 4), (6, 4))
    query, key = query * scale, key * scale
    measured = local_constant(head(query, key, value, causal, rope), x)
    assert measured <= local(x, query, key, value, causal, rope) * (1 + 1e-9)


@settings(max_examples=60)
@given(SEEDS, st.floats(0.05, 2), st.floats(1e-4, 30), st.booleans(), st.booleans())
def test_between_two_inputs_attention_changes_no_more_than_its_bound(seed, scale, distance, causal, rope):
    x, step, query, key, value = draw(seed, (5, 6), (5, 6), (6, 4), (6, 4), (6, 4))
    query, key = query * scale, key * scale
    y, attend = x + distance * step, head(query, key, value, causal, rope)
    bound = bounds.lipschitz_attention_between(
        query=norm2(query),
        key=norm2(key),
        value=norm2(value),
        scale=0.5,  # one over the root of the head width 4
        weights=norm2(attention_map(y, query, key, causal, rope)),
        # Rotary positions turn rows one by one: their Frobenius norm bounds what they become.
        queries=float((y @ query).norm()),
        keys=float((x @ key).norm()),
        values=norm2(x @ value),
    )
    assert float((attend(y) - attend(x)).norm()) <= bound * float((y - x).norm()) * (1 + 1e-9)


@settings(max_examples=15)
@given(SEEDS)
def test_heads_together_are_bounded_by_their_root_sum_of_squares(seed):
    x, output, *weights = draw(seed, (4, 6), (8, 6), *[(6, 4)] * 6)
    parts = [weights[:3], weights[3:]]

    def attend(x):
        return torch.cat([head(*part)(x) for part in parts], dim=1) @ output

    found = bounds.joint_heads(norm2(output), [local(x, *part) for part in parts])
    assert local_constant(attend, x) <= found * (1 + 1e-9)


@pytest.mark.parametrize("name", sorted(bounds.SLOPES))
def test_slopes_are_those_of_the_activations(name):
    x = torch.linspace(-8, 8, 400_001, dtype=torch.float64, requires_grad=True)
    getattr(torch.nn.functional, name)(x).sum().backward()
    assert bounds.SLOPES[name] == pytest.approx(float(x.grad.max()), abs=2e-5)
    assert bounds.SLOPES[name] >= float(x.grad.max())


@settings(max_examples=60)
@given(SEEDS, st.floats(0.1, 10), st.floats(1e-3, 1))
def test_the_swiglu_bound_holds_in_its_ball(seed, radius, share):
    x, y, gate, up, down = draw(seed, (1, 6), (1, 6), (9, 6), (9, 6), (6, 9))
    x = x / x.norm() * radius
    y = y / y.norm() * radius * share
    bound = bounds.lipschitz_ffn(norm2(up), norm2(down), gate=norm2(gate), radius=radius)
    ffn = swiglu(gate, up, down)
    assert local_constant(ffn, x) <= bound * (1 + 1e-9)
    assert float((ffn(x) - ffn(y)).norm()) <= bound * float((x - y).norm()) * (1 + 1e-9)


def test_a_gated_ffn_of_large_rows_exceeds_the_printed_bound():
    x, gate, up, down = draw(0, (1, 6), (9, 6), (9, 6), (6, 9))
    assert local_constant(swiglu(gate, up, down), 10 * x) > bounds.lipschitz_ffn(
        norm2(up), norm2(down), "paper"
    )


@settings(max_examples=40)
@given(SEEDS)
def test_two_matrices_around_gelu_need_its_slope(seed):
    x, y, up, down = draw(seed, (1, 6), (1, 6), (9, 6), (6, 9))

    def ffn(x):
        return torch.nn.functional.gelu(x @ up.mT) @ down.mT

    bound = bounds.lipschitz_ffn(norm2(up), norm2(down), "gelu")
    assert float((ffn(x) - ffn(y)).norm()) <= bound * float((x - y).norm()) * (1 + 1e-9)
    # One channel at GELU's steepest place is the counterexample to a slope of 1.
    steep = local_constant(torch.nn.functional.gelu, torch.tensor([math.sqrt(2)], dtype=torch.float64))
    assert bounds.lipschitz_ffn(1, 1, "paper") < steep <= bounds.lipschitz_ffn(1, 1, "gelu")


@settings(max_examples=60)
@given(SEEDS, st.floats(0.01, 100), st.floats(0.01, 100))
def test_the_rmsnorm_bound_holds_between_rows_of_any_size(seed, first, second):
    x, y, gain = draw(seed, (1, 6), (1, 6), (6,))
    x, y, epsilon = x * first, y * second, 1e-3

    def rms(x):
        return float((x.square().mean() + epsilon).sqrt())

    def norm(x):
        return gain * x * (x.square().mean(-1, keepdim=True) + epsilon).rsqrt()

    largest = float(gain.abs().max())
    between = bounds.lipschitz_rmsnorm(largest, rms(x), rms(y))
    assert float((norm(x) - norm(y)).norm()) <= between * float((x - y).norm()) * (1 + 1e-9)
    assert local_constant(norm, x) <= bounds.lipschitz_rmsnorm(largest, rms(x)) * (1 + 1e-9)
    assert bounds.lipschitz_rmsnorm(largest, rms(x)) <= largest / math.sqrt(epsilon)


def test_skip_errors_are_row_norms():
    rows = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    found = bounds.skip_error(rows)
    assert (found.mean, found.max, found.total) == (3.0, 5.0, pytest.approx(math.sqrt(26)))
    assert bounds.skip_error(rows[:0]) == bounds.SkipError(0.0, 0.0, 0.0)


def test_eight_layers_that_each_skip_a_constant_drift_eight_times_what_eq_18_says():
    layers, constant = 8, torch.tensor([0.6, 0.8])
    dense = planned = torch.zeros(2)
    for _ in range(layers):
        dense = dense + 0 + constant  # no attention, a constant FFN
        planned = planned + 0
    drift = float((dense - planned).norm())
    skips, zero = [float(constant.norm())] * layers, [0.0] * layers
    assert drift == pytest.approx(8)
    assert bounds.total_bound(skips, zero, zero, "paper") == pytest.approx(1)
    assert bounds.total_bound(skips, zero, zero, "index_fixed") == pytest.approx(1)
    assert bounds.total_bound(skips, zero, zero, "residual") == pytest.approx(drift)
    assert bounds.geometric_bound(skips[0], 0.0, layers) == pytest.approx(1)


FACTORS = st.lists(st.tuples(st.floats(0, 2), st.floats(0, 2), st.floats(0, 2)), min_size=1, max_size=7)


@given(FACTORS)
def test_eq_18_with_its_indices_fixed_is_eq_17_unrolled_and_as_printed_it_takes_the_first_layers(layers):
    skips, attention, ffn = (list(one) for one in zip(*layers, strict=True))
    gamma, depth = [a + f for a, f in zip(attention, ffn, strict=True)], len(layers)
    fixed = sum(skips[n] * math.prod(gamma[n + 1 :]) for n in range(depth))
    # In the paper's numbers from 1: the product over i = 1 .. L - l of layer i + 1.
    as_printed = sum(
        skips[number - 1] * math.prod(gamma[i + 1 - 1] for i in range(1, depth - number + 1))
        for number in range(1, depth + 1)
    )
    assert bounds.total_bound(skips, attention, ffn, "index_fixed") == pytest.approx(fixed)
    assert bounds.total_bound(skips, attention, ffn, "paper") == pytest.approx(as_printed)


def test_the_index_bug_shows_only_where_layers_differ():
    skips, zero = [1.0, 1.0, 1.0], [0.0] * 3
    same, other = [2.0] * 3, [2.0, 3.0, 5.0]
    assert bounds.total_bound(skips, same, zero, "paper") == bounds.total_bound(
        skips, same, zero, "index_fixed"
    )
    assert bounds.total_bound(skips, other, zero, "paper") == 15 + 3 + 1
    assert bounds.total_bound(skips, other, zero, "index_fixed") == 15 + 5 + 1


@settings(max_examples=40)
@given(SEEDS, st.integers(1, 6), st.floats(0.05, 1.5))
def test_the_residual_total_bounds_the_drift_of_a_residual_network(seed, depth, scale):
    state, *weights = draw(seed, (5, 4), *[(4, 4)] * (2 * depth))
    mixers, ffns = [w * scale for w in weights[:depth]], [w * scale for w in weights[depth:]]
    mean = torch.full((5, 5), 1 / 5, dtype=torch.float64)  # attention to all rows alike
    skipped = torch.tensor([False, True, True, False, False])
    dense = planned = state
    skips, unasked = [], []
    for mixer, ffn in zip(mixers, ffns, strict=True):
        asks = torch.tensor([True, True, False, True, True])
        added = mean @ dense @ mixer
        unasked.append(float(added[~asks].norm()))
        a, b = dense + added, planned + (mean @ planned @ mixer) * asks[:, None]
        f, g = (torch.tanh(one @ ffn) for one in (a, b))
        skips.append(float(f[skipped].norm()))
        dense, planned = a + f, b + g * ~skipped[:, None]
    attention, slopes = [norm2(w) for w in mixers], [norm2(w) for w in ffns]
    total = bounds.total_bound(skips, attention, slopes, unasked=unasked)
    assert float((dense - planned).norm()) <= total * (1 + 1e-9)


@given(st.floats(0, 3), st.one_of(st.just(0.0), st.just(1.0), st.floats(0, 4)), st.integers(0, 30))
def test_the_geometric_bound_is_its_series(skip, gamma, layers):
    series = math.fsum(skip * gamma**n for n in range(layers))
    assert bounds.geometric_bound(skip, gamma, layers) == pytest.approx(series, rel=1e-6)


def test_the_geometric_limit_exists_below_one_only_and_nothing_overflows():
    assert bounds.geometric_bound(3, 0.5) == 6
    assert bounds.geometric_bound(3, 1.0) == math.inf
    assert bounds.geometric_bound(3, 1e20, 40) == math.inf
    assert bounds.total_bound([1.0] * 40, [1e20] * 40, [1e20] * 40) == math.inf


@settings(max_examples=200)
@given(SEEDS, st.integers(2, 40), st.floats(0.01, 30), st.floats(0.001, 30))
def test_the_categorical_kl_bounds_hold_both_ways(seed, vocabulary, spread, size):
    logits, change = draw(seed, (vocabulary,), (vocabulary,))
    logits, change = logits * spread, change * size
    p, q = logits.log_softmax(-1), (logits + change).log_softmax(-1)
    width = float(change.max() - change.min())
    for a, b in ((p, q), (q, p)):
        # What is left of differences of rounded log-probabilities is rounded as they are.
        divergence = float((a.exp() * (a - b)).sum()) - 1e-15 * (1 + float(logits.abs().max()))
        assert divergence <= bounds.kl_bound(float(change.norm())) * (1 + 1e-9)
        assert divergence <= bounds.kl_bound(width, "categorical_range") * (1 + 1e-9)


def test_the_categorical_kl_bounds_are_nearly_reached():
    change = torch.tensor([0.01, -0.01], dtype=torch.float64)
    p, q = torch.zeros(2, dtype=torch.float64).log_softmax(-1), change.log_softmax(-1)
    divergence = float((p.exp() * (p - q)).sum())
    assert divergence > 0.99 * bounds.kl_bound(float(change.norm()))
    assert divergence > 0.99 * bounds.kl_bound(0.02, "categorical_range")


def test_the_printed_kl_is_that_of_gaussians_and_no_bound_of_next_tokens():
    from torch.distributions import Independent, Normal, kl_divergence

    mean, other = torch.tensor([0.0, 1.0]), torch.tensor([3.0, 5.0])
    sides = (Independent(Normal(one, torch.full((2,), 0.7)), 1) for one in (mean, other))
    assert bounds.kl_bound(5.0, "paper", 0.49) == pytest.approx(float(kl_divergence(*sides)), rel=1e-5)
    # A head that enlarges a small hidden error makes a large divergence of it.
    head, hidden, error = 100 * torch.eye(2), torch.tensor([0.01, -0.01]), torch.tensor([-0.03, 0.03])
    p, q = ((head @ state).log_softmax(-1) for state in (hidden, hidden + error))
    divergence = float((q.exp() * (q - p)).sum())
    variance = float((head @ hidden).var(correction=0))
    assert divergence > bounds.kl_bound(float(error.norm()), "paper", variance)
    assert divergence <= bounds.kl_bound(float((head @ error).norm())) * (1 + 1e-9)


@settings(max_examples=60)
@given(SEEDS, st.floats(0.01, 10), st.floats(0.01, 10))
def test_eps_sim_is_the_distance_of_the_two_vectors(seed, first, second):
    a, b = draw(seed, (5,), (5,))
    a, b = a * first, b * second
    cosine = float(torch.cosine_similarity(a, b, dim=0))
    found = bounds.eps_sim(cosine, float(a.norm()), float(b.norm()))
    assert found == pytest.approx(float((a - b).norm()), rel=1e-6)
    unit = float((a / a.norm() - b / b.norm()).norm())
    assert bounds.eps_sim(cosine) == pytest.approx(unit, rel=1e-6)
    assert bounds.eps_sim(cosine) == pytest.approx(math.sqrt(2 * (1 - cosine)))


@pytest.mark.parametrize("seed", range(3))
def test_eps_sim_is_what_a_merged_row_is_from_the_row_it_joins(seed):
    rows_ND = draw(seed, (12, 6))[0].float()
    merged = token_merge(rows_ND[None], 5)
    for home, weights_N in zip(merged.homes_BK[0].tolist(), merged.weights_BKN[0], strict=True):
        for member in weights_N.nonzero()[:, 0].tolist():
            a, b = rows_ND[member].double(), rows_ND[home].double()
            cosine = float(torch.cosine_similarity(a, b, dim=0).clamp(-1, 1))
            found = bounds.eps_sim(cosine, float(a.norm()), float(b.norm()))
            assert found == pytest.approx(float((a - b).norm()), abs=1e-6)


@pytest.mark.parametrize(("first", "second", "width"), [(1.0, 1.0, 3), (0.3, 2.0, 1), (2.5, 0.4, 5)])
def test_the_gaussian_kl_is_torchs(first, second, width):
    from torch.distributions import MultivariateNormal, kl_divergence

    move = torch.arange(1, width + 1).double()
    p, q = (
        MultivariateNormal(mean, torch.eye(width).double() * variance)
        for mean, variance in ((move, first), (0 * move, second))
    )
    found = bounds.kl_gaussian(float(move.norm()), first, second, width)
    assert found == pytest.approx(float(kl_divergence(p, q)))
    if first == second:
        assert found == pytest.approx(bounds.kl_bound(float(move.norm()), "paper", first))


def test_a_layer_that_leaves_nothing_out_adds_nothing_however_large_the_rest():
    assert bounds.total_bound([0, 0, 0], [1e200] * 3, [0] * 3, "paper") == 0
    assert bounds.total_bound([1, 0, 0], [1e200] * 3, [0] * 3, "paper") == math.inf


def test_what_does_not_make_sense_is_refused():
    for call, words in (
        (lambda: bounds.eps_sim(1.1), "cosine"),
        (lambda: bounds.eps_sim(0.5, -1.0), "not negative"),
        (lambda: bounds.kl_bound(1.0, "paper"), "variance"),
        (lambda: bounds.kl_bound(1.0, "gaussian"), "mode is"),
        (lambda: bounds.lipschitz_attention(1, 1, 1, 4), "norms"),
        (lambda: bounds.lipschitz_attention(1, 1, 1, 4, "global"), "mode is"),
        (lambda: bounds.lipschitz_ffn(1, 1), "radius"),
        (lambda: bounds.lipschitz_ffn(1, 1, "relu"), "mode is"),
        (lambda: bounds.lipschitz_rmsnorm(1, 0), "positive"),
        (lambda: bounds.propagate(1, 1, 1, 1, "printed"), "mode is"),
        (lambda: bounds.total_bound([1], [1], []), "layers"),
        (lambda: bounds.total_bound([1], [1], [1], "printed"), "mode is"),
        (lambda: bounds.geometric_bound(1, -0.5), "not negative"),
        (lambda: bounds.geometric_bound(math.nan, 0.5, 3), "not negative"),
        (lambda: bounds.lipschitz_attention(1, 1, 1, 0, "paper"), "width"),
        (lambda: bounds.lipschitz_attention(-1, 1, 1, 4, "paper"), "query is a size"),
        (lambda: bounds.lipschitz_ffn(1, 1, gate=1, radius=-3), "radius is a size"),
        (lambda: bounds.total_bound([-1.0], [1], [1]), "skip error of layer 0"),
        (lambda: bounds.total_bound([1], [1], [1], unasked=[1, 1]), "left out of 2"),
        (lambda: bounds.kl_bound(math.nan, "paper", 1.0), "error is a size"),
        (lambda: bounds.kl_gaussian(1.0, 0.0), "positive"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
