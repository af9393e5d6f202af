"""VisionZip against a slow account of it: kept rows, order, contents and sources."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import support.steady  # noqa: F401
from saccade.methods.visionzip import VisionZip
from saccade.spec import parse
from support.tower_reference import Token, shares, visionzip
from support.tower_scene import (
    HEADS,
    SAMPLES,
    Scene,
    ViewOf,
    attention_of,
    build,
    check,
    counts_of,
    holds,
    rows_of,
    same,
    stage_of,
    untouched,
)

RAGGED = [["square", "tiles"], [], ["large"]]


def by_view(scene: Scene, method: VisionZip, b: int, image: int) -> list[tuple[ViewOf, list[Token]]]:
    """Tokens of every view of an image, in the order of one view."""
    picture, keep = scene.pictures[b][image], scene.evidence(method).keep[b][image]
    found = len(picture.rows)
    wanted = method.contextual
    contextual = wanted if isinstance(wanted, int) else max(int(found * wanted), 1) if wanted else 0
    budgets = shares(keep, [len(v.rows) for v in picture.views])
    parts = shares(contextual, budgets)
    tokens = []
    for view, budget, part in zip(picture.views, budgets, parts, strict=True):
        cls = view.cls_V if scene.has_cls else None
        args = (attention_of(scene, view), view.keys_QV[1:], HEADS, view.features_PV, cls)
        tokens.append((view, visionzip(*args, budget - part, part)))
    return tokens


def in_official_order(views: list[tuple[ViewOf, list[Token]]]) -> list[tuple[ViewOf, Token]]:
    """The first view as it is; of the others all dominant patches by row, all CLS, all contextual."""
    first, others = views[0], [(view, token) for view, tokens in views[1:] for token in tokens]
    dominant = [pair for pair in others if pair[1]["kind"] == "dominant"]
    dominant.sort(key=lambda pair: dict(pair[0].rows)[pair[1]["home"]])
    return [
        *((first[0], token) for token in first[1]),
        *dominant,
        *(pair for pair in others if pair[1]["kind"] == "cls"),
        *(pair for pair in others if pair[1]["kind"] == "contextual"),
    ]


def in_place(views: list[tuple[ViewOf, list[Token]]]) -> list[tuple[int, ViewOf, Token]]:
    """Every token with its row: CLS in its view's first dropped patch, all others at home."""
    found = []
    for view, tokens in views:
        homes = {token["home"] for token in tokens}
        for token in tokens:
            free = [row for patch, row in view.rows if patch not in homes]
            row = free[0] if token["kind"] == "cls" else dict(view.rows)[token["home"]]
            found.append((row, view, token))
    return sorted(found, key=lambda one: one[0])


BUDGETS = [(9, 3), (0.3, 0.1), (5, 0), (0, 4), (2, 9)]


@pytest.mark.parametrize("has_cls", [True, False])
@pytest.mark.parametrize(("dominant", "contextual"), BUDGETS)
@pytest.mark.parametrize("samples", [RAGGED, [["tower"]], [["square"]]])
def test_compact_rows_are_those_of_the_reference_in_the_official_order(samples, dominant, contextual, has_cls):
    scene, method = build(samples, has_cls, seed=1), VisionZip(dominant=dominant, contextual=contextual)
    choice = scene.choose(method)
    for b, sample in enumerate(scene.pictures):
        for image, picture in enumerate(sample):
            rows = rows_of(scene, choice, b, image)
            assert [r.row for r in rows] == picture.rows[: len(rows)]
            same(scene, b, rows, in_official_order(by_view(scene, method, b, image)))


@pytest.mark.parametrize("has_cls", [True, False])
@pytest.mark.parametrize(("dominant", "contextual"), BUDGETS)
@pytest.mark.parametrize("samples", [RAGGED, [["tower"]], [["square"]]])
def test_kept_rows_are_those_of_the_reference_in_their_places(samples, dominant, contextual, has_cls):
    scene = build(samples, has_cls, seed=1)
    method = VisionZip(dominant=dominant, contextual=contextual, position_policy="keep")
    choice = scene.choose(method)
    for b, sample in enumerate(scene.pictures):
        for image in range(len(sample)):
            expected = in_place(by_view(scene, method, b, image))
            rows = rows_of(scene, choice, b, image)
            assert [r.row for r in rows] == [row for row, _, _ in expected]
            same(scene, b, rows, [(view, token) for _, view, token in expected])


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
    evidence = scene.evidence(method)
    for b, sample in enumerate(counts_of(evidence, choice)):
        for image, count in enumerate(sample):
            found, asked = evidence.found[b][image], evidence.keep[b][image]
            patches = sum(len(v.rows) for v in scene.pictures[b][image].views)
            assert count == (found if asked == found else min(asked, patches))


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


def test_turning_it_up_keeps_the_ratio():
    method = VisionZip(dominant=54, contextual=10)
    assert method.kept(stage_of(method.turned(0)), 577, 577, 577) == 64
    for notch in (0, 250, 500, 900, 999):
        turned = method.turned(notch)
        assert turned.dominant / turned.contextual == pytest.approx(5.4)
        assert turned.kept(stage_of(turned), 577, 577, 577) == pytest.approx(577 * (1 - notch / 1000), abs=1)
    assert method.turned(0).kept(stage_of(method), 577, 577, 577) == 577
    assert method.turned(method.notches(32)).kept(stage_of(method), 577, 577, 577) == 0


@pytest.mark.parametrize("given", [(54, 0.1), (0.5, 10), (54, 1), (-1, 10), (2.5, 10), ("many", 10)])
def test_both_numbers_are_of_one_kind(given):
    with pytest.raises(ValueError, match="visionzip"):
        VisionZip(dominant=given[0], contextual=given[1])
