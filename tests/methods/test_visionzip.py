"""VisionZip against a slow account of it: kept rows, order, contents and sources."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from saccade.methods.visionzip import VisionZip
from saccade.plans.spec import parse
from support.tower_reference import Pair, tokens_visionzip
from support.tower_scene import (
    SAMPLES,
    Scene,
    build,
    check,
    holds,
    keeps_what_was_asked,
    rows_of,
    same,
    stage_of,
    untouched,
)

RAGGED = [["square", "tiles"], [], ["large"]]


def expected(scene: Scene, method: VisionZip, b: int, image: int) -> list[Pair]:
    """Tokens of an image in the official order."""
    picture, wanted = scene.pictures[b][image], method.contextual
    if isinstance(wanted, float):
        wanted = max(int(len(picture.rows) * wanted), 1) if wanted else 0
    return tokens_visionzip(picture.views, scene.evidence(method).keep[b][image], wanted)


BUDGETS = [(9, 3), (0.3, 0.1), (5, 0), (0, 4), (2, 9)]


@pytest.mark.parametrize("has_cls", [True, False])
@pytest.mark.parametrize(("dominant", "contextual"), BUDGETS)
@pytest.mark.parametrize("samples", [RAGGED, [["tower"]], [["square"]]])
def test_compact_rows_come_in_the_official_order(samples, dominant, contextual, has_cls):
    scene, method = build(samples, has_cls, seed=1), VisionZip(dominant=dominant, contextual=contextual)
    choice = scene.choose(method)
    for b, sample in enumerate(scene.pictures):
        for image, picture in enumerate(sample):
            rows = rows_of(scene, choice, b, image)
            assert [r.row for r in rows] == picture.rows[: len(rows)]
            same(scene, b, rows, expected(scene, method, b, image))


@pytest.mark.parametrize("has_cls", [True, False])
@pytest.mark.parametrize(("dominant", "contextual"), BUDGETS)
@pytest.mark.parametrize("samples", [RAGGED, [["tower"]], [["square"]]])
def test_kept_rows_are_those_of_the_reference_in_their_places(samples, dominant, contextual, has_cls):
    scene = build(samples, has_cls, seed=1)
    method = VisionZip(dominant=dominant, contextual=contextual, position_policy="keep")
    choice = scene.choose(method)
    for b, sample in enumerate(scene.pictures):
        for image in range(len(sample)):
            tokens = sorted(expected(scene, method, b, image), key=lambda pair: pair[1]["row"])
            rows = rows_of(scene, choice, b, image)
            assert [r.row for r in rows] == [token["row"] for _, token in tokens]
            same(scene, b, rows, tokens)


@given(
    SAMPLES,
    st.sampled_from([(0.0, 0.0), (0.2, 0.1), (0.9, 0.1), (0.6, 0.4), (54, 10), (3, 2), (0.0, 0.2), (7, 0)]),
    st.sampled_from([None, "keep"]),
    st.booleans(),
    st.integers(0, 99),
)
def test_properties(samples, budget, policy, has_cls, seed):
    method = VisionZip(dominant=budget[0], contextual=budget[1], position_policy=policy)
    scene, choice = holds(method, samples, has_cls, seed)
    keeps_what_was_asked(scene, scene.evidence(method), choice)


def test_a_smaller_batch_mate_stays_as_it_is():
    scene = build([["square"], ["large"]])
    choice = scene.choose(VisionZip(dominant=20, contextual=4))
    assert untouched(scene, choice, 0, 0) and int(choice.keep_BN[1].sum()) == 24


def test_rows_move_only_to_rows_that_were_alive():
    scene, method = build([["tiles", "square"]]), VisionZip(dominant=0.3, contextual=0.2)
    alive_BN = torch.arange(scene.layout.rows).remainder(3).bool().expand(1, -1)
    evidence, choice = scene.evidence(method, alive_BN), scene.choose(method, alive_BN)
    check(scene, evidence, choice)
    for image, keep in enumerate(evidence.keep[0]):
        candidates = [r for r in scene.pictures[0][image].rows if alive_BN[0, r]]
        assert [r.row for r in rows_of(scene, choice, 0, image)] == candidates[:keep]
    assert choice.rewrite is not None
    assert not choice.rewrite.sources_BSN[:, :, ~alive_BN[0]].any()


def test_the_price_list_knows_both_numbers():
    def kept(spec: str, found: int, original: int | None = None) -> int:
        (method,) = parse(spec)
        return method.kept(stage_of(method), found, found, original or found)

    assert kept("visionzip", 576) == 64
    assert kept("visionzip(dominant=108,contextual=20)", 576) == 128
    assert kept("visionzip", 40) == 40
    assert kept("visionzip(dominant=0.5,contextual=0.25)", 576) == 432
    assert kept("visionzip(dominant=0.5,contextual=0.25,of=original)", 400, 576) == 400
    assert kept("visionzip(dominant=0.25,contextual=0,of=original)", 400, 576) == 144
    assert kept("visionzip(dominant=0.9,contextual=0.9)", 100) == 100
    assert kept("visionzip(dominant=54,contextual=0)", 576) == 54
    assert kept("visionzip(dominant=54,contextual=1)", 576) == 55
    assert kept("visionzip(dominant=1,contextual=9)", 576) == 10
    assert kept("visionzip(dominant=1,contextual=0)", 576) == 576


def test_turning_it_up_keeps_the_ratio():
    method = VisionZip(dominant=54, contextual=10)
    assert method.kept(stage_of(method.at_strength(0)), 577, 577, 577) == 64
    for strength in (0, 250, 500, 900, 999):
        turned = method.at_strength(strength)
        assert turned.dominant / turned.contextual == pytest.approx(5.4, rel=5e-3)
        assert turned.kept(stage_of(turned), 577, 577, 577) == pytest.approx(
            577 * (1 - strength / 1000), abs=2
        )
    assert method.at_strength(0).kept(stage_of(method), 577, 577, 577) == 577
    assert method.at_strength(method.max_strength(32)).kept(stage_of(method), 577, 577, 577) == 0


@pytest.mark.parametrize("given", [(54, 0.1), (0.5, 10), (-1, 10), (2.5, 10), ("many", 10)])
def test_both_numbers_are_of_one_kind(given):
    with pytest.raises(ValueError, match="visionzip"):
        VisionZip(dominant=given[0], contextual=given[1])
