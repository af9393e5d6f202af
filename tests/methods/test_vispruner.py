"""VisPruner against a slow account of it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from saccade.methods.vispruner import VisPruner
from support.tower_reference import best, rows_vispruner
from support.tower_scene import SAMPLES, build, holds, keeps_what_was_asked

RAGGED = [["square", "tiles"], [], ["large"]]


@pytest.mark.parametrize("has_cls", [True, False])
@pytest.mark.parametrize("important", [0.0, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("keep", [0.3, 5, 13])
@pytest.mark.parametrize("samples", [RAGGED, [["tower"]]])
def test_it_keeps_what_the_reference_keeps(samples, keep, important, has_cls):
    scene, method = build(samples, has_cls, seed=2), VisPruner(keep=keep, important=important)
    choice = scene.choose(method)
    assert choice.rewrite is None
    for b, sample in enumerate(scene.pictures):
        for image, picture in enumerate(sample):
            kept = [row for row in picture.rows if choice.keep_BN[b, row]]
            assert kept == rows_vispruner(picture.views, scene.evidence(method).keep[b][image], important)


@given(
    SAMPLES,
    st.sampled_from([0.0, 0.1, 0.5, 0.97, 1.0, 2, 9, 64]),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.booleans(),
    st.integers(0, 99),
)
def test_properties(samples, keep, important, has_cls, seed):
    method = VisPruner(keep=keep, important=important)
    scene, choice = holds(method, samples, has_cls, seed)
    keeps_what_was_asked(scene, scene.evidence(method), choice)


def test_of_equal_patches_one_is_enough():
    for place in range(0, 49, 7):
        scene = build([["large"]], seed=3)
        picture = scene.pictures[0][0]
        copies = [r for r in picture.rows if r != picture.first + place]
        scene.vision.features_BNV[0, copies] = scene.vision.features_BNV[0, copies[0]].clone()
        choice = scene.choose(VisPruner(keep=20, important=0.0))
        assert bool(choice.keep_BN[0, picture.first + place])


def test_the_important_part_is_what_is_most_attended():
    scene = build([["large"]], seed=4)
    view = scene.pictures[0][0].views[0]
    kept = scene.choose(VisPruner(keep=10, important=0.7)).keep_BN[0]
    assert all(kept[dict(view.rows)[p]] for p in best(view.attention(), 7))
    assert int(kept.sum()) == 10


@pytest.mark.parametrize("important", [-0.1, 1.5, "half", torch.tensor(0.5)])
def test_the_important_share_is_a_share(important):
    with pytest.raises(ValueError, match="important"):
        VisPruner(important=important)
