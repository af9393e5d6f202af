"""PruMerge and PruMerge+ against a slow account of them: kept rows, order, contents and sources."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from saccade.methods.prumerge import PruMerge
from saccade.methods.prumerge_plus import PruMergePlus
from saccade.plans.spec import parse
from support.tower_reference import Pair, tokens_prumerge
from support.tower_scene import (
    SAMPLES,
    Scene,
    build,
    counts_of,
    holds,
    rows_of,
    same,
    stage_of,
    untouched,
)

RAGGED = [["square", "tiles"], [], ["large"]]
KINDS = [PruMerge, PruMergePlus]


def expected(scene: Scene, method: PruMerge, b: int, image: int) -> list[Pair]:
    """Tokens of an image in the official order."""
    keep = None if method.keep is None else scene.evidence(method).keep[b][image]
    return tokens_prumerge(scene.pictures[b][image].views, keep, isinstance(method, PruMergePlus))


@pytest.mark.parametrize("has_cls", [True, False])
@pytest.mark.parametrize("keep", [None, 0.3, 5, 11])
@pytest.mark.parametrize("cls", KINDS)
@pytest.mark.parametrize("samples", [RAGGED, [["tower"]], [["square"]]])
def test_compact_rows_are_those_of_the_reference_by_attention(samples, cls, keep, has_cls):
    scene, method = build(samples, has_cls, seed=1), cls(keep=keep)
    choice = scene.choose(method)
    for b, sample in enumerate(scene.pictures):
        for image, picture in enumerate(sample):
            rows = rows_of(scene, choice, b, image)
            assert [r.row for r in rows] == picture.rows[: len(rows)]
            same(scene, b, rows, expected(scene, method, b, image))


@pytest.mark.parametrize("has_cls", [True, False])
@pytest.mark.parametrize("keep", [None, 0.3, 11])
@pytest.mark.parametrize("cls", KINDS)
@pytest.mark.parametrize("samples", [RAGGED, [["tower"]]])
def test_kept_rows_are_those_of_the_reference_in_their_places(samples, cls, keep, has_cls):
    scene, method = build(samples, has_cls, seed=1), cls(keep=keep, position_policy="keep")
    choice = scene.choose(method)
    for b, sample in enumerate(scene.pictures):
        for image in range(len(sample)):
            tokens = sorted(expected(scene, method, b, image), key=lambda pair: pair[1]["row"])
            rows = rows_of(scene, choice, b, image)
            assert [r.row for r in rows] == [token["row"] for _, token in tokens]
            same(scene, b, rows, tokens)


@given(
    SAMPLES,
    st.sampled_from(KINDS),
    st.sampled_from([None, 0.0, 0.1, 0.5, 0.97, 1.0, 2, 9, 64]),
    st.sampled_from([None, "keep"]),
    st.booleans(),
    st.integers(0, 99),
)
def test_properties(samples, cls, keep, policy, has_cls, seed):
    method = cls(keep=keep, position_policy=policy)
    scene, choice = holds(method, samples, has_cls, seed)
    evidence = scene.evidence(method)
    for b, sample in enumerate(counts_of(evidence, choice)):
        for image, count in enumerate(sample):
            found, asked = evidence.found[b][image], evidence.keep[b][image]
            patches = sum(len(v.rows) for v in scene.pictures[b][image].views)
            if asked == found:
                assert untouched(scene, choice, b, image)
            elif keep is None:
                assert len(scene.pictures[b][image].views) <= count <= patches
            else:
                assert count == min(asked, patches)


def test_a_few_outliers_are_found_and_counted():
    scene = build([["large"]])
    first = scene.pictures[0][0].first
    scene.vision.single_BN[0, scene.pictures[0][0].rows] = 0.01 + torch.linspace(0, 0.001, 49)
    scene.vision.single_BN[0, first + 20] = 0.2
    scene.vision.single_BN[0, first + 7] = 0.3
    choice = scene.choose(PruMerge(position_policy="keep"))
    assert choice.keep_BN[0].nonzero()[:, 0].tolist() == [first + 7, first + 20, first + 48]
    assert choice.counts is None and scene.evidence(PruMerge()).keep == ((3,),)
    scene.vision.single_BN[0, first + 21] = 0.25
    assert scene.choose(PruMerge()).counts == ((4,),)


@pytest.mark.parametrize("cls", KINDS)
def test_flat_attention_keeps_at_least_one_patch(cls):
    scene = build([["large"]])
    scene.vision.single_BN[0, scene.pictures[0][0].rows] = 1 / 49
    choice = scene.choose(cls(position_policy="keep"))
    first = scene.pictures[0][0].first
    kept = (choice.keep_BN[0].nonzero()[:, 0] - first).tolist()
    assert kept == ([0, 48] if cls is PruMerge else [0, 16, 32, 48])


def test_where_many_are_outliers_the_grid_is_every_patch_but_the_last_and_never_fails():
    attention = np.array([0, 0, 0, 0.9, 0, 1.0, 0, 0])
    assert PruMerge().pick(attention, None) == [5, 3]
    assert PruMergePlus().pick(attention, None) == [5, 3, 0, 1, 2, 4, 6]
    assert PruMergePlus().pick(np.array([0.1, 0.2]), None) == [1, 0]
    assert PruMergePlus().pick(np.array([0.1]), None) == [0]


def test_the_price_list_answers_the_shares_of_the_paper():
    def kept(spec: str, found: int) -> int:
        (method,) = parse(spec)
        return method.kept(stage_of(method), found, found, found)

    assert kept("prumerge", 576) == 32 and kept("prumerge_plus", 576) == 144
    assert kept("prumerge(keep=72)", 576) == kept("prumerge_plus(keep=72)", 576) == 72
    # An eighth of the patches, as the authors fix it, and the extra row.
    assert kept("prumerge(keep=0.125)", 576) == kept("prumerge_plus(keep=0.125)", 576) == 73
    assert kept("prumerge(keep=1)", 576) == 576 and kept("prumerge(keep=0)", 576) == 0
    assert kept("prumerge", 1) == 1
