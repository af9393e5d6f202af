"""FasterVLM against a slow account of it, and what holds for every reducer that asks the vision tower."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from saccade.methods import METHODS
from saccade.methods.fastervlm import FasterVLM
from support.tower_reference import rows_fastervlm
from support.tower_scene import SAMPLES, build, holds, keeps_what_was_asked, stage_of

RAGGED = [["square", "tiles"], [], ["wide"]]


@pytest.mark.parametrize("has_cls", [True, False])
@pytest.mark.parametrize("keep", [0.3, 5, 12])
@pytest.mark.parametrize("samples", [RAGGED, [["tower"]]])
def test_it_keeps_what_the_reference_keeps(samples, keep, has_cls):
    scene, method = build(samples, has_cls, seed=1), FasterVLM(keep=keep)
    choice = scene.choose(method)
    assert choice.rewrite is None
    for b, sample in enumerate(scene.pictures):
        for image, picture in enumerate(sample):
            keep_here = scene.evidence(method).keep[b][image]
            kept = [row for row in picture.rows if choice.keep_BN[b, row]]
            assert kept == rows_fastervlm(picture.views, keep_here) and len(kept) == keep_here


@given(SAMPLES, st.sampled_from([0.0, 0.1, 0.5, 0.97, 1.0, 2, 9, 64]), st.booleans(), st.integers(0, 99))
def test_properties(samples, keep, has_cls, seed):
    scene, choice = holds(FasterVLM(keep=keep), samples, has_cls, seed)
    keeps_what_was_asked(scene, scene.evidence(FasterVLM(keep=keep)), choice)


def test_newline_rows_are_never_kept_and_the_counts_say_so():
    scene, method = build([["tiles"]]), FasterVLM(keep=25)
    choice = scene.choose(method)
    assert torch.equal(choice.keep_BN, scene.vision.patch_BN)
    assert scene.evidence(method).keep == ((25,),) and choice.counts == ((24,),)


def test_ties_go_to_the_first_patches():
    scene = build([["square"]])
    scene.vision.attention_BN.fill_(0.5)
    first = scene.pictures[0][0].first
    kept = scene.choose(FasterVLM(keep=5)).keep_BN[0].nonzero()[:, 0]
    assert kept.tolist() == list(range(first, first + 5))


def test_only_rows_that_an_earlier_method_left_are_candidates():
    scene, method = build([["square"], ["tiles"]]), FasterVLM(keep=0.5)
    alive_BN = torch.arange(scene.layout.rows).remainder(2).bool().expand(2, -1)
    choice = scene.choose(method, alive_BN)
    assert not (choice.keep_BN & ~alive_BN).any()
    keep = scene.evidence(method, alive_BN).keep
    assert choice.keep_BN.sum(1).tolist() == [sum(k) for k in keep] and keep[0] == (4,)
    of_original = FasterVLM(keep=0.5, of="original")
    assert scene.evidence(of_original, alive_BN).keep[0] == (8,)


@pytest.mark.parametrize(
    "name", ["fastervlm", "vispruner", "visionzip", "prumerge", "prumerge_plus", "hiprune"]
)
def test_without_the_tower_they_say_what_to_do(name):
    scene, method = build([["large"]]), METHODS[name]()
    method = method.at_strength(500)
    evidence = replace(scene.evidence(method), vision=None)
    with pytest.raises(ValueError, match=f"{name}.*pixel_values"):
        method.choose(stage_of(method), evidence)


@pytest.mark.parametrize(
    ("name", "compact"),
    [("fastervlm", "if possible"), ("vispruner", "if possible"), ("visionzip", "if possible"),
     ("prumerge", "if possible"), ("prumerge_plus", "if possible"), ("divprune", "if possible"),
     ("cdpruner", "if possible"), ("hiprune", "if possible"), ("pool", "if possible"), ("uniform", "never")],
)  # fmt: skip
def test_positions_are_as_the_authors_had_them_unless_asked(name, compact):
    cls = METHODS[name]
    assert stage_of(cls()).compact == compact
    assert stage_of(cls(position_policy="keep")).compact == "never"
    assert stage_of(cls(position_policy="compact")).compact == "always"
