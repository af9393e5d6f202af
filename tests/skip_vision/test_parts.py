"""Summaries and the Chain-of-Sight resampler, against loops."""

import pytest
import torch

from saccade.skip_vision.chain_of_sight import ChainOfSight, Scale
from saccade.skip_vision.summary import Scorer


def test_a_summary_weighs_raw_rows_by_scores_of_normed_ones():
    torch.manual_seed(0)
    scorer, x = Scorer(6), torch.randn(2, 5, 6) * 3 + 1
    with torch.no_grad():
        scorer.norm.weight.uniform_(0.5, 2)
        scorer.score.weight.normal_()
    for b in range(2):
        scores = []
        for row in x[b]:
            normed = (row - row.mean()) / (row.var(unbiased=False) + 1e-5).sqrt()
            scores.append(scorer.score.weight[0] @ (normed * scorer.norm.weight + scorer.norm.bias))
        weights = torch.stack(scores).exp() / torch.stack(scores).exp().sum()
        torch.testing.assert_close(scorer(x)[b, 0], weights @ x[b], atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        before, _ = scorer(x), scorer.score.bias.add_(5.0)
        torch.testing.assert_close(scorer(x), before, atol=1e-5, rtol=1e-5)


def test_without_training_a_summary_is_the_mean_and_its_parameters_are_few():
    scorer, x = Scorer(8, learned=False), torch.randn(1, 4, 8)
    torch.testing.assert_close(scorer(x)[0, 0], x[0].mean(0))
    assert sum(p.numel() for p in Scorer(4096).parameters()) == 12_289


def resampler(grid=8, levels=2):
    torch.manual_seed(1)
    scales = (Scale(grid, 3), Scale(4, 8), Scale(2, 16))
    made = ChainOfSight(scales, grid, levels, width=12, out=10, heads=3)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return made


def test_a_token_sees_the_patches_of_its_own_window_and_scales_go_coarse_to_fine():
    made, features = resampler(), torch.randn(2, 64, 24)
    found = made(features)
    assert found.shape == (2, 27, 10)
    for line, column in ((0, 0), (3, 5), (7, 7)):
        changed = features.clone()
        changed[:, line * 8 + column] = torch.randn(24)
        moved = ((made(changed) - found).abs().amax((0, 2)) > 1e-6).nonzero()[:, 0].tolist()
        middle, small = (line // 4) * 2 + column // 4, (line // 2) * 4 + column // 2
        assert moved == [0, 1, 2, 3 + 2 * middle, 4 + 2 * middle, 11 + small]


def test_one_window_of_one_scale_by_hand():
    made, features = resampler(levels=1), torch.randn(1, 64, 12)
    block, place = made.blocks[2][0], 5
    line, column = (place // 4) * 2, (place % 4) * 2
    patches = torch.stack([features[0, (line + i) * 8 + column + j] for i in (0, 1) for j in (0, 1)])
    token = made.queries[2][0, place : place + 1]
    q = block.query(block.norm_tokens(token))
    k, v = block.key_value(block.norm_patches(patches)).chunk(2, -1)
    heads = []
    for h in range(3):
        part = slice(4 * h, 4 * h + 4)
        heads.append((q[:, part] @ k[:, part].T / 2.0).softmax(-1) @ v[:, part])
    token = token + block.out(torch.cat(heads, -1))
    token = token + block.mlp(block.norm_mlp(token))
    torch.testing.assert_close(
        made(features)[0, 11 + place], made.project(made.norm(token))[0], atol=1e-5, rtol=1e-5
    )


def test_inflation_repeats_queries_over_the_new_windows():
    torch.manual_seed(2)
    small = ChainOfSight((Scale(8, 3), Scale(4, 8)), 8, 1, 12, 10, heads=3)
    large = ChainOfSight((Scale(8, 3), Scale(4, 8), Scale(2, 32)), 8, 1, 12, 10, heads=3)
    large.inflate_from(small)
    features = torch.randn(1, 64, 12)
    # What both have, both make alike: a richer model starts where the poorer one stopped.
    torch.testing.assert_close(large(features)[:, :11], small(features), atol=1e-6, rtol=1e-6)
    local, fine = small.queries[1].view(2, 2, 2, 12), large.queries[2].view(4, 4, 2, 12)
    for line in range(4):
        for column in range(4):
            assert torch.equal(fine[line, column], local[line // 2, column // 2])
    assert torch.equal(large.blocks[2][0].query.weight, small.blocks[1][0].query.weight)


SOURCE = (Scale(16, 16), Scale(4, 64))
INFLATED = {
    "336 tokens": ((Scale(32, 16), Scale(16, 64), Scale(4, 256)), (0, 0, 1)),
    "1296 tokens, v1": ((Scale(32, 16), Scale(8, 256), Scale(2, 1024)), (0, 0, 1)),
    "1296 tokens, v2": ((Scale(32, 16), Scale(4, 256), Scale(2, 1024)), (0, 1, 1)),
}
"""Scales on a grid of 32, and the scale of the 80-token source on a grid of 16 that each starts from."""


@pytest.mark.parametrize("name", INFLATED)
def test_the_published_layouts_are_inflated_from_eighty_tokens(name):
    scales, origins = INFLATED[name]
    torch.manual_seed(5)
    source, made = (ChainOfSight(s, g, 1, 4, 3, heads=1) for s, g in ((SOURCE, 16), (scales, 32)))
    made.inflate_from(source)
    for place, (scale, origin) in enumerate(zip(scales, origins, strict=True)):
        assert made.queries[place].shape == (1, scale.queries, 4)
        before, now = 16 // SOURCE[origin].window, 32 // scale.window
        own = source.queries[origin][0].view(before, before, -1, 4)
        new = made.queries[place][0].view(now, now, -1, 4)
        for line in range(now):
            for column in range(now):
                assert torch.equal(new[line, column], own[line * before // now, column * before // now])
        for ours, theirs in zip(
            made.blocks[place].parameters(), source.blocks[origin].parameters(), strict=True
        ):
            assert torch.equal(ours, theirs)
    assert made(torch.randn(1, 1024, 4)).isfinite().all()


def test_the_published_token_counts():
    scales = (Scale(32, 16), Scale(4, 256), Scale(2, 1024))
    made = ChainOfSight(scales, 32, 2, width=64, out=8)
    assert made(torch.zeros(1, 1024, 128)).shape == (1, 1296, 8)


def test_a_resampler_inflated_from_one_of_its_own_scales_is_that_one():
    torch.manual_seed(3)
    scales = (Scale(8, 3), Scale(4, 8), Scale(2, 16), Scale(2, 16))
    first, second = (ChainOfSight(scales, 8, 1, 12, 10, heads=3) for _ in range(2))
    second.inflate_from(first)
    features = torch.randn(1, 64, 12)
    assert torch.equal(first(features), second(features))


@pytest.mark.parametrize(
    ("scales", "grid", "message"),
    [((Scale(3, 9),), 8, "do not tile"), ((Scale(4, 6),), 8, "share out"), ((), 8, "at least one scale")],
)
def test_what_does_not_fit_is_refused(scales, grid, message):
    with pytest.raises(ValueError, match=message):
        ChainOfSight(scales, grid, 1, 12, 10, heads=3)


def test_inflation_refuses_other_widths_and_other_tokens_per_window():
    one = ChainOfSight((Scale(8, 3), Scale(4, 8)), 8, 1, 12, 10, heads=3)
    with pytest.raises(ValueError, match="same levels and widths"):
        ChainOfSight((Scale(8, 3),), 8, 2, 12, 10, heads=3).inflate_from(one)
    with pytest.raises(ValueError, match="tokens per window"):
        ChainOfSight((Scale(8, 3), Scale(4, 4)), 8, 1, 12, 10, heads=3).inflate_from(one)
    with pytest.raises(ValueError, match="8 x 8 patches"):
        one(torch.zeros(1, 49, 12))
