"""The schedules that the papers and their code publish come out of the closed form."""

from __future__ import annotations

from itertools import pairwise

import pytest

from saccade.core.layout import Layout
from saccade.core.pricing import Cost
from saccade.core.shapes import SHAPES
from saccade.methods import METHODS
from saccade.plans.budget import as_processed, price, price_prompt, resolve_for_prompt
from saccade.plans.plan import Plan

SEVEN, THIRTEEN, NEXT = (SHAPES[name] for name in ("llava-1.5-7b", "llava-1.5-13b", "llava-next-7b"))
TEXT = 66.6


def priced(spec: str, shape=SEVEN, visual: int = 576, text: float = TEXT) -> Cost:
    return price_prompt(resolve_for_prompt(Plan.of(spec), shape, visual, text), shape, visual, text)


def entering(spec: str, shape=SEVEN, visual: int = 576) -> list[int]:
    """Visual rows that enter each layer."""
    layout = Layout.single(visual, 64)
    route = Plan.of(spec).route(layout, shape.layers)
    return [int((layer.alive_BN & layout.visual_BN).sum()) for layer in route.layers]


def steps(rows: list[int]) -> list[tuple[int, int]]:
    """Where the number of rows changes: (first layer, rows)."""
    return [(0, rows[0])] + [(n + 1, b) for n, (a, b) in enumerate(pairwise(rows)) if a != b]


# Rows after each stage (SparseVLM's with clusters), and the average that enters and that leaves a layer.
SPARSE = [
    (192, (309, 204, 113), 206.5, 192.0),
    (128, (312, 117, 39), 145.4, 128.6),
    (96, (249, 55, 27), 114.1, 96.9),
    (64, (82, 32, 18), 82.2, 64.8),
]
SPARSE_PLUS = [
    (192, (300, 200, 118), 206.8, 192.4),
    (128, (238, 108, 60), 144.1, 128.0),
    (96, (246, 54, 28), 113.9, 96.8),
    (64, (66, 34, 20), 81.8, 64.4),
]


@pytest.mark.parametrize(
    ("name", "row"),
    [("sparsevlm", row) for row in SPARSE] + [("sparsevlm_plus", row) for row in SPARSE_PLUS],
)
def test_sparsevlms_budgets(name, row):
    tokens, kept, enters, leaves = row
    rows = entering(f"{name}(tokens={tokens})")
    assert steps(rows) == [(0, 576), *zip((3, 7, 16), kept, strict=True)]
    assert priced(f"{name}(tokens={tokens})").equivalent_tokens == pytest.approx(enters, abs=0.051)
    # The code logs what leaves a layer: the next layer's rows, and those of the last.
    assert sum([*rows[1:], rows[-1]]) / 32 == pytest.approx(leaves, abs=0.051)


def test_pyramiddrops_average_of_270_tokens():
    spec = "pyramiddrop(layers=8/16/24,keep=0.5)"
    assert steps(entering(spec)) == [(0, 576), (8, 288), (16, 144), (24, 72)]
    assert priced(spec).equivalent_tokens == 270
    # The 13B scripts keep the 7B layers: 16 layers run with 72 tokens.
    assert priced(spec, THIRTEEN).equivalent_tokens == pytest.approx(230.4)
    assert Plan.of("pyramiddrop()").route(Layout.single(576, 64), 32).counts() == (
        Plan.of(spec).route(Layout.single(576, 64), 32).counts()
    )


@pytest.mark.parametrize(
    ("shape", "visual", "dense", "cut"), [(SEVEN, 576, 3.82, 1.78), (NEXT, 2880, 20.83, 9.46)]
)
def test_pyramiddrops_multiplications_of_image_tokens_alone(shape, visual, dense, cut):
    """The author's formula, 4nd^2 + 2n^2 d + 3ndm per layer in MACs, counts image tokens only."""
    found = priced("pyramiddrop(layers=8/16/24)", shape, visual, 0)
    assert found.dense_tflops / 2 == pytest.approx(dense, abs=0.0051)
    assert found.tflops / 2 == pytest.approx(cut, abs=0.0051)


def test_fastv_with_k_3_and_half_the_rows():
    found = priced("fastv(layer=3,keep=0.5)")
    assert found.ratio == pytest.approx(0.5882, abs=5e-5)
    assert found.equivalent_tokens == 315
    assert steps(entering("fastv(layer=3,keep=0.5)")) == [(0, 576), (3, 288)]
    # What V-Skip's Table 3 has, 61.66 %, is K=5 by this formula; running layer K-1 twice gives 61.94 %.
    assert priced("fastv(layer=5,keep=0.5)").ratio == pytest.approx(0.6166, abs=5e-5)


@pytest.mark.parametrize("kept", [72, 144, 288, 432])
def test_fastv_with_k_2_and_an_absolute_count(kept):
    found = priced(f"fastv(layer=2,keep={kept})")
    assert found.equivalent_tokens == (2 * 576 + 30 * kept) / 32
    assert found.kv_ratio == pytest.approx(
        (2 * (576 + TEXT) + 30 * (kept + TEXT)) / (32 * (576 + TEXT)), rel=1e-6
    )


@pytest.mark.parametrize("layers", ["0,14-31", "0,1,15-31"])
def test_the_booster_row_of_v_skips_table(layers):
    """FastV + V-Skip, 56.73 %: one skipped layer before a cut at 5 explains it (56.71), others come near."""
    found = priced(f"fastv(layer=5,keep=0.5)+vskip(layers={layers})")
    assert 0.562 < found.ratio < 0.571
    assert priced("fastv(layer=5,keep=0.5)+vskip(layers=0,14-31)").ratio == pytest.approx(0.5671, abs=5e-5)


def test_vtw_from_layer_16():
    assert priced("vtw(layer=16)").tflops == pytest.approx(4.702, abs=0.0006)


@pytest.mark.parametrize(("r", "rows"), [(8, 392), (16, 208), (23, 47)])
def test_tomes_constant_schedule(r, rows):
    """r tokens go in each of 23 layers, CLS excepted: 576 - 23 r, as long as half of them are more than r."""
    assert set(entering(f"tome(r={r})")) == {rows}


def test_tome_halves_at_most():
    tokens = 577
    for _ in range(23):
        tokens -= min(64, (tokens - 1) // 2)
    assert set(entering("tome(r=64)")) == {tokens - 1}


@pytest.mark.parametrize(
    ("spec", "rows"),
    [
        ("visionzip(dominant=54,contextual=10)", 64),
        ("visionzip(dominant=108,contextual=20)", 128),
        ("visionzip(dominant=162,contextual=30)", 192),
        ("fastervlm(keep=144)", 144),
        ("fastervlm(keep=58)", 58),
        ("vispruner(keep=128)", 128),
        ("divprune(keep=64)", 64),
        ("random(keep=0.25)", 144),
        ("uniform(keep=0.25)", 144),
        ("pool(factor=2)", 144),
    ],
)
def test_before_the_decoder_every_layer_runs_with_what_is_kept(spec, rows):
    assert set(entering(spec)) == {rows}
    found = priced(spec)
    assert found.equivalent_tokens == rows
    assert found.kv_ratio == pytest.approx((rows + TEXT) / (576 + TEXT), rel=1e-6)
    assert found.ratio == pytest.approx(price_prompt(Plan(), SEVEN, rows, TEXT).tflops / found.dense_tflops)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_score_rows_cost_under_a_hundredth_of_the_dense_prefill(name):
    spec = {"vskip": "vskip(budget=19)", "ffn_skip": "ffn_skip(budget=19)", "shortv": "shortv(budget=19)"}
    found = priced(spec.get(name, "vtw(layer=16)" if name == "vtw" else f"{name}()"))
    # FitPrune asks all rows of the image, in every layer in which rows leave.
    most = 0.04 if name == "fitprune" else 0.01
    assert 0 <= found.score_tflops < most * found.dense_executed_tflops
    assert found.score_tflops <= found.executed_tflops


def test_score_rows_are_counted_in_what_is_executed():
    scored, blind = priced("fastv(layer=3,keep=0.5)"), priced("random(layer=3,keep=0.5)")
    assert blind.score_tflops == 0 < scored.score_tflops
    assert scored.executed_tflops == pytest.approx(blind.executed_tflops + scored.score_tflops)
    assert scored.tflops == blind.tflops
    # Keys of the next layer are computed for the scores alone.
    assert priced("pyramiddrop()").score_tflops > 100 * scored.score_tflops


def test_a_lower_resolution_is_a_shorter_prompt_beside_the_full_one():
    found, short = priced("resize(scale=0.5)"), price_prompt(Plan(), SEVEN, 144, TEXT)
    full = price_prompt(Plan(), SEVEN, 576, TEXT)
    assert (found.tflops, found.kv_bytes) == (short.tflops, short.kv_bytes)
    assert (found.dense_tflops, found.dense_kv_bytes) == (full.tflops, full.kv_bytes)
    assert found.ratio == pytest.approx(short.tflops / full.tflops)
    assert found.executed_ratio == pytest.approx(short.executed_tflops / full.executed_tflops)
    assert (found.equivalent_tokens, found.visual_tokens) == (144, 576)


def test_every_image_of_a_batch_shrinks_on_its_own():
    import torch

    visual = torch.zeros(2, 40, dtype=torch.bool)
    visual[0, 2:38], visual[1, 20:36] = True, True
    real = torch.ones(2, 40, dtype=torch.bool)
    real[1, :18] = False
    layout = Layout.from_mask(visual, real, [[16, 20], [16]])
    short = as_processed(Plan.of("resize(scale=0.5)"), layout)
    assert short.counts == ((4, 5), (4,))
    assert (short.text_BN.sum(1) == layout.text_BN.sum(1)).all()
    assert short.rows == 4 + 9 and short.visual_BN[0].nonzero()[:, 0].tolist() == list(range(2, 11))
    assert not short.real_BN[1, :3].any() and short.real_BN[1, 3:].all()
    assert as_processed(Plan.of("fastv()"), layout) is layout
    alone = [price(Plan.of("resize(scale=0.5)"), SEVEN, Layout.from_mask(v[None], r[None], i)).tflops
             for v, r, i in zip(visual, real, ([[16, 20]], [[16]]), strict=True)]  # fmt: skip
    assert price(Plan.of("resize(scale=0.5)"), SEVEN, layout).tflops == pytest.approx(sum(alone))
