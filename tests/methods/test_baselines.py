"""The plain baselines: rows evenly spread over the picture, and average pooling."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import avg_pool2d

from saccade.methods.pool import Pool
from saccade.methods.uniform import Uniform
from support.tower_scene import (
    SAMPLES,
    Scene,
    build,
    check,
    counts_of,
    holds,
    rows_of,
    stage_of,
    untouched,
)

RAGGED = [["square", "tiles"], [], ["wide"]]


def kept_places(scene: Scene, keep: int | float) -> list[tuple[int, int, int]]:
    """Plane, line and column of what the uniform baseline keeps of the first image."""
    kept = scene.choose(Uniform(keep=keep)).keep_BN[0]
    picture = scene.pictures[0][0]
    return [place for row, place in zip(picture.rows, picture.places, strict=True) if kept[row]]


@given(SAMPLES, st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.97, 1.0, 2, 9, 64]), st.integers(0, 99))
def test_uniform_counts_are_exact(samples, keep, seed):
    method = Uniform(keep=keep)
    scene, choice = holds(method, samples, True, seed)
    assert counts_of(scene.evidence(method), choice) == scene.evidence(method).keep and choice.rewrite is None


def test_a_quarter_is_every_second_line_and_column():
    lines = {(0, line, column) for line in (1, 3) for column in (1, 3)}
    assert set(kept_places(build([["square"]]), 0.25)) == lines


@given(st.integers(2, 48))
def test_no_part_of_the_picture_is_left_out(keep):
    places = kept_places(build([["large"]]), keep)
    assert len(set(places)) == len(places) == keep
    # The densest and the sparsest half of the picture differ by little, across and down.
    for axis in (1, 2):
        low, high = (sum(sign * (p[axis] - 3) > 0 for p in places) for sign in (-1, 1))
        assert abs(low - high) <= 1 + keep // 3
    # As many lines as columns of it, as far as the number allows.
    assert len({p[1] for p in places}) >= min(7, int(keep**0.5))


def test_planes_get_their_share():
    places = kept_places(build([["tiles"]]), 12)
    assert [sum(p[0] == plane for p in places) for plane in (0, 1, -1)] == [5, 7, 0]
    places = kept_places(build([["tiles"]]), 26)
    assert [sum(p[0] == plane for p in places) for plane in (0, 1, -1)] == [9, 15, 2]


@pytest.mark.parametrize("gone", ["grid", "rows"])
def test_what_is_no_full_grid_is_thinned_out_in_raster_order(gone):
    scene, method = build([["square"]]), Uniform(keep=5)
    evidence = scene.evidence(method)
    left = torch.ones_like(evidence.alive_BN)
    if gone == "grid":
        evidence = replace(evidence, grid=None)
    else:
        left[0, scene.pictures[0][0].rows[3]] = False
        evidence = scene.evidence(method, left)
    kept = method.choose(stage_of(method), evidence).keep_BN[0].nonzero()[:, 0].tolist()
    candidates = [r for r in scene.pictures[0][0].rows if left[0, r]]
    at = [candidates.index(row) for row in kept]
    assert len(at) == 5 and {b - a for a, b in pairwise(at)} <= {3, 4}


def pooled(x_LCD: torch.Tensor, factor: int) -> torch.Tensor:
    """Means of windows; those cut off at the border average what is there."""
    image = x_LCD.permute(2, 0, 1)[None]
    return avg_pool2d(image, factor, ceil_mode=True, count_include_pad=False)[0].permute(1, 2, 0)


@pytest.mark.parametrize("factor", [2, 3, 5])
@pytest.mark.parametrize("policy", [None, "keep"])
def test_pooling_is_that_of_torch_and_a_newline_ends_every_pooled_line(factor, policy):
    scene = build([["square", "tiles"], [], ["wide"], ["tower", "large"]])
    method = Pool(factor=factor, position_policy=policy)
    choice = scene.choose(method)
    check(scene, scene.evidence(method), choice)
    for b, sample in enumerate(scene.pictures):
        for image, picture in enumerate(sample):
            hidden = scene.hidden_BND[b, picture.rows]
            expected, home = [], []
            for plane in range(2):
                at = [i for i, place in enumerate(picture.places) if place[0] == plane]
                if not at:
                    continue
                width = max(picture.places[i][2] for i in at) + 1
                means = pooled(hidden[at].unflatten(0, (-1, width)), factor)
                for line, states in enumerate(means):
                    expected += list(states)
                    columns = [c * factor for c in range(len(states))]
                    home += [picture.places.index((plane, line * factor, c)) for c in columns]
                    if plane == 1:
                        home.append(picture.places.index((1, line * factor, width - 1)) + 1)
                        expected.append(hidden[home[-1]])
                        assert picture.places[home[-1]] == (-1, -1, -1)
            rows = rows_of(scene, choice, b, image)
            assert [r.row - picture.first for r in rows] == home
            for row, state in zip(rows, expected, strict=True):
                torch.testing.assert_close(row.state_D, state, rtol=1e-5, atol=1e-5)
                if row.sources_N is not None:
                    made = row.sources_N @ scene.hidden_BND[b]
                    torch.testing.assert_close(made, state, rtol=1e-5, atol=1e-5)
                    assert float(row.sources_N.sum()) == pytest.approx(1)


@given(SAMPLES, st.integers(1, 9), st.integers(0, 99))
def test_pooling_holds_what_every_method_holds(samples, factor, seed):
    scene, choice = holds(Pool(factor=factor), samples, True, seed)
    if factor == 1:
        every = [(b, i) for b, sample in enumerate(scene.pictures) for i in range(len(sample))]
        assert all(untouched(scene, choice, b, i) for b, i in every)


def test_windows_average_what_an_earlier_method_left():
    scene, method = build([["square"]]), Pool(factor=2)
    picture = scene.pictures[0][0]
    left = torch.ones(1, scene.layout.rows, dtype=torch.bool)
    left[0, [picture.rows[i] for i in (0, 2, 3, 6, 7)]] = False
    rows = rows_of(scene, scene.choose(method, left), 0, 0)
    # Of the first window one patch is gone, of the second all are.
    assert [r.row - picture.first for r in rows] == [1, 8, 10]
    three = scene.hidden_BND[0, [picture.rows[i] for i in (1, 4, 5)]].mean(0)
    torch.testing.assert_close(rows[0].state_D, three)


def test_the_price_list_knows_what_pooling_leaves():
    def kept(factor: int, found: int) -> int:
        return Pool(factor=factor).kept(stage_of(Pool(factor=factor)), found, found, found)

    assert kept(2, 576) == 144 and kept(5, 576) == 25 and kept(1, 577) == 577 and kept(24, 576) == 1
    assert kept(2, 2340) == 585
    turned = [Pool().at_strength(strength).kept(stage_of(Pool()), 576, 576, 576) for strength in range(32)]
    assert turned[0] == 576 and turned == sorted(turned, reverse=True) and turned[-1] == 1


def test_pooling_says_what_it_needs():
    scene = build([["square"]])
    evidence = replace(scene.evidence(Pool()), grid=None)
    with pytest.raises(ValueError, match="pool needs to know where"):
        Pool().choose(stage_of(Pool()), evidence)
    for factor in (0, -1, 1.5, True, None):
        with pytest.raises(ValueError, match="factor"):
            Pool(factor=factor)
