"""DivPrune against a slow account of it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from saccade.methods.divprune import DivPrune
from support.tower_reference import divprune
from support.tower_scene import SAMPLES, build, counts_of, holds

RAGGED = [["square", "tiles"], [], ["large"]]


@pytest.mark.parametrize("keep", [0.3, 2, 5, 13])
@pytest.mark.parametrize("samples", [RAGGED, [["tower"]]])
def test_it_keeps_what_the_reference_keeps(samples, keep):
    scene, method = build(samples, seed=2), DivPrune(keep=keep)
    choice = scene.choose(method)
    assert choice.rewrite is None and choice.counts is None
    for b, sample in enumerate(scene.pictures):
        for image, picture in enumerate(sample):
            picked = divprune(scene.hidden_BND[b, picture.rows], scene.evidence(method).keep[b][image])
            kept = [row - picture.first for row in picture.rows if choice.keep_BN[b, row]]
            assert kept == picked


@given(SAMPLES, st.sampled_from([0.0, 0.1, 0.5, 0.97, 1.0, 2, 9, 64]), st.integers(0, 99))
def test_properties(samples, keep, seed):
    scene, choice = holds(DivPrune(keep=keep), samples, True, seed)
    assert counts_of(scene.evidence(DivPrune(keep=keep)), choice) == scene.evidence(DivPrune(keep=keep)).keep


def test_equal_rows_are_picked_in_order_and_last():
    scene = build([["square"]])
    picture = scene.pictures[0][0]
    scene.hidden_BND[0, picture.rows] = torch.eye(6)[[0] * 12 + [1, 2, 3, 4]]
    kept = scene.choose(DivPrune(keep=7)).keep_BN[0].nonzero()[:, 0] - picture.first
    assert kept.tolist() == [0, 1, 2, 12, 13, 14, 15]


def test_of_the_newline_rows_which_are_all_alike_one_is_enough():
    scene = build([["tiles"]], seed=7)
    picture = scene.pictures[0][0]
    kept = scene.choose(DivPrune(keep=10)).keep_BN[0]
    newlines = [row for row, place in zip(picture.rows, picture.places, strict=True) if place[0] < 0]
    assert len(newlines) == 3 and int(kept[newlines].sum()) <= 1


def test_scale_does_not_matter():
    scene = build([["square"], ["wide"]], seed=3)
    before = scene.choose(DivPrune(keep=6)).keep_BN
    scene.hidden_BND.mul_(torch.linspace(0.5, 4, scene.layout.rows)[None, :, None])
    assert torch.equal(scene.choose(DivPrune(keep=6)).keep_BN, before)
