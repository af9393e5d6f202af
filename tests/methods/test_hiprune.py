"""HiPrune against a slow account of it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from saccade import apply
from saccade.families import find
from saccade.methods.hiprune import HiPrune
from support.looking import evidence_of
from support.models import BIG, FACTORIES, SQUARE, TALL, WIDE
from support.tower_reference import hiprune, shares
from support.tower_scene import SAMPLES, Picture, build, holds, keeps_what_was_asked

RAGGED = [["square", "tiles"], [], ["large"]]


def kept(picture: Picture, keep: int, alpha: float) -> list[int]:
    """Rows that an image keeps, view by view."""
    where = dict(zip(picture.rows, picture.places, strict=True))
    found = []
    for view, budget in zip(picture.views, shares(keep, [len(v.rows) for v in picture.views]), strict=True):
        places = {patch: where[row][1:] for patch, row in view.rows}
        rows = dict(view.rows)
        found += [rows[p] for p in hiprune(view.middle().received(), view.received(), places, budget, alpha)]
    return sorted(found)


@pytest.mark.parametrize("has_cls", [True, False])
@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("keep", [0.3, 5, 13, 30])
@pytest.mark.parametrize("samples", [RAGGED, [["tower"]]])
def test_it_keeps_what_the_reference_keeps(samples, keep, alpha, has_cls):
    scene, method = build(samples, has_cls, seed=2), HiPrune(keep=keep, alpha=alpha)
    choice = scene.choose(method)
    assert choice.rewrite is None
    for b, sample in enumerate(scene.pictures):
        for image, picture in enumerate(sample):
            asked = scene.evidence(method).keep[b][image]
            if asked == len(picture.rows):
                continue
            rows = [row for row in picture.rows if choice.keep_BN[b, row]]
            assert rows == kept(picture, min(asked, sum(len(v.rows) for v in picture.views)), alpha)


@given(
    SAMPLES,
    st.sampled_from([0.0, 0.1, 0.5, 0.97, 1.0, 2, 9, 64]),
    st.sampled_from([0.0, 0.1, 0.6, 1.0]),
    st.booleans(),
    st.integers(0, 99),
)
def test_properties(samples, keep, alpha, has_cls, seed):
    method = HiPrune(keep=keep, alpha=alpha)
    scene, choice = holds(method, samples, has_cls, seed)
    keeps_what_was_asked(scene, scene.evidence(method), choice)


def test_an_anchor_brings_the_patches_beside_it_and_none_across_the_border():
    scene = build([["large"]], seed=3)
    first = scene.pictures[0][0].first
    middle_BN, last_BN = scene.vision.received_BN
    for at, beside in ((24, [17, 23, 24, 25, 31]), (6, [5, 6, 13]), (42, [35, 42, 43])):
        middle_BN[0, first : first + 49] = 0.0
        middle_BN[0, first + at] = 1.0
        last_BN[0, first : first + 49] = torch.arange(49) / 100
        rows = scene.choose(HiPrune(keep=5, alpha=1.0)).keep_BN[0].nonzero()[:, 0] - first
        expected = beside + [n for n in range(48, 0, -1) if n not in beside][: 5 - len(beside)]
        assert rows.tolist() == sorted(expected)


@pytest.mark.parametrize("name", ["llava-llama", "llava_next-llama", "llava_onevision"])
@torch.no_grad()
def test_it_is_shown_the_attention_of_all_rows_in_both_layers(name, monkeypatch):
    """Held against the stock tower's own attention maps."""
    tiny = FACTORIES[name](layers=2)
    given = tiny.batch([[3, SQUARE, 2], [4], [1, WIDE, 2]])
    (evidence,) = run(tiny, given, "hiprune(keep=0.5,tower_layer=1)", monkeypatch)
    picture = find(tiny.model).picture(tiny.model, given)
    tower, pixels = tiny.model.model.vision_tower, given["pixel_values"]
    if tiny.family != "llava":
        pixels = torch.cat([views[:n] for views, n in zip(pixels, picture.views, strict=True)])
    tower.set_attn_implementation("eager")
    maps = tower(pixels, output_attentions=True).attentions
    tower.set_attn_implementation("sdpa")
    has_cls = int(name != "llava_onevision")
    patch_R = picture.patch_R[picture.patch_R >= 0]
    # Of the tiny models' two layers the first makes the features of LLaVA, the second those of OneVision.
    for found_BN, number in zip(evidence.vision.received_BN, (0, 1 - has_cls), strict=True):
        received_P = maps[number].mean(1).sum(1)[:, has_cls:].flatten()
        assert torch.allclose(found_BN[evidence.vision.patch_BN], received_P[patch_R], atol=1e-5)


@pytest.mark.parametrize("name", ["llava_onevision", "qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
@torch.no_grad()
def test_without_cls_the_last_layer_says_what_it_says_to_every_method(name, monkeypatch):
    tiny = FACTORIES[name](layers=2)
    given = tiny.batch([[3, SQUARE, 2, TALL, 5], [4], [1, BIG, 2]])
    (evidence,) = run(tiny, given, "hiprune(keep=0.5,tower_layer=1)", monkeypatch)
    middle_BN, last_BN = evidence.vision.received_BN
    assert torch.allclose(last_BN, evidence.vision.attention_BN, atol=1e-6)
    assert not torch.allclose(middle_BN, last_BN, atol=1e-3)


@torch.no_grad()
def test_joined_patches_have_the_mean_of_their_own(monkeypatch):
    """InternVL: of four patches, in a tower with a CLS row that asks as all others do."""
    tiny = FACTORIES["internvl-qwen2"](layers=2)
    given = tiny.batch([[3, SQUARE, 5]])
    (evidence,) = run(tiny, given, "hiprune(keep=0.5,tower_layer=1)", monkeypatch)
    tower = tiny.model.model.vision_tower
    tower.set_attn_implementation("eager")
    maps = tower(given["pixel_values"], output_attentions=True).attentions
    tower.set_attn_implementation("sdpa")
    for found_BN, number in zip(evidence.vision.received_BN, (0, 1), strict=True):
        received_66 = maps[number].mean(1).sum(1)[0, 1:].view(1, 1, 6, 6)
        joined = torch.nn.functional.avg_pool2d(received_66, 2).flatten()
        assert torch.allclose(found_BN[evidence.vision.patch_BN], joined, atol=1e-5)


def run(tiny, given, spec, monkeypatch):
    """What the method is given by a run."""
    found = evidence_of(spec, monkeypatch)
    with apply(tiny.model, spec):
        tiny.model(**given)
    return found


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("alpha=1.5", "alpha is a share of the budget"),
        ("tower_layer=0", "tower_layer is the number of a layer of the vision tower"),
        ("tower_layer=1.0", "or a share of its depth"),
    ],
)
def test_numbers_out_of_range_are_refused(given, said):
    with pytest.raises(ValueError, match=said):
        apply(FACTORIES["llava-llama"](layers=2).model, f"hiprune({given})")


def test_a_layer_that_the_tower_does_not_have_and_a_tower_that_merges_are_refused():
    tiny = FACTORIES["llava-llama"](layers=2)
    with pytest.raises(ValueError, match="layer 9 of the vision tower is wanted, but it has 2"):
        apply(tiny.model, "hiprune(tower_layer=9)")
    with pytest.raises(ValueError, match="leave one of the two methods out"):
        apply(tiny.model, "hiprune(keep=8)+tome(r=1)")
