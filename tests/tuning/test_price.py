"""Prices from row counts equal those of whole routes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from PIL import Image

from saccade import models
from saccade.core.shapes import SHAPES, ModelShape
from saccade.evaluation.runner import count_prompts
from saccade.inputs.samples import Sample
from saccade.plans.budget import price_prompt
from saccade.plans.plan import Plan
from saccade.tuning.prepare import shorter_of
from saccade.tuning.price import CacheMeter, FlopsMeter, Pricer, typical
from support import folders

SHAPE = ModelShape("small", 8, 64, 4, 2, 16, 160, 100, 40)
PROMPTS = {(40, 9): 3.0, (40, 12): 1.0, (33, 80): 2.0}

PLANS = [
    "dense",
    "vskip(layers=0,3)+ffn_skip(layers=3-5)+shortv(layers=6)",
    "vispruner(keep=0.7,position_policy=keep)+shortv(layers=2,5-7)",
    "fastv(layer=3,keep=0.5)+vskip(layers=4-6)+vtw(layer=7)",
    "uniform(keep=0.6)+dart(layer=2,keep=0.5)+fastv(layer=5,keep=4)+ffn_skip(layers=1,6)",
    "vtw(layer=3)+fastv(layer=5,keep=0.5)",
    "resize(scale=0.7)+pool(factor=2)+vskip(layers=1)",
    "pyramiddrop(layers=2/4/6,keep=0.5)+shortv(layers=7)",
    "sparsevlm(tokens=0.4,layers=1/3/5)",
    "visionzip(dominant=0.3,contextual=0.1)",
]


def slow(plan: Plan, shape: ModelShape, what: str) -> float:
    """The ratio by the routes that ``saccade cost`` prices."""
    total = {"": 0.0, "dense_": 0.0}
    for (visual, text), weight in PROMPTS.items():
        found = price_prompt(plan, shape, visual, text)
        for side in total:
            total[side] += weight * getattr(found, f"{side}{what}")
    return total[""] / total["dense_"]


@pytest.mark.parametrize("spec", PLANS)
def test_a_price_is_that_of_the_route(spec):
    plan = Plan.of(spec).resolve(SHAPE.layers)
    flops, cache = (Pricer(meter, SHAPE, PROMPTS) for meter in (FlopsMeter(SHAPE), CacheMeter()))
    assert flops.ratio(plan) == pytest.approx(slow(plan, SHAPE, "executed_tflops"), rel=1e-12)
    assert cache.ratio(plan) == pytest.approx(slow(plan, SHAPE, "kv_bytes"), rel=1e-12)


def test_a_reading_that_sees_a_part_of_the_rows_is_priced_by_its_route():
    plan = Plan.of("vskip(layers=2,reading=mask)").resolve(SHAPE.layers)
    assert Pricer(FlopsMeter(SHAPE), SHAPE, PROMPTS).ratio(plan) == pytest.approx(1.0, abs=0.02)


def test_a_plan_of_the_model_runs_under_both():
    own, more = Plan.of("shortv(layers=0-3)"), Plan.of("vskip(layers=6)")
    pricer = Pricer(FlopsMeter(SHAPE), SHAPE, PROMPTS, own)
    bare = Pricer(FlopsMeter(SHAPE), SHAPE, PROMPTS)
    assert pricer.ratio(Plan()) == 1.0
    assert pricer.ratio(more) == pytest.approx(bare.ratio(more.over(own)) / bare.ratio(own))


def test_smaller_pictures_are_priced_by_the_rows_that_they_have():
    plan, skips = Plan.of("resize(scale=0.7)+vskip(layers=1)"), Plan.of("vskip(layers=1)")
    flops = Pricer(FlopsMeter(SHAPE), SHAPE, PROMPTS)
    # Cut into as many tiles as before, they have as many rows.
    alike = replace(flops, shorter=lambda _: PROMPTS, _memo={})
    assert alike.ratio(plan) == pytest.approx(flops.ratio(skips)) and flops.ratio(plan) < 0.8
    assert alike.ratio(Plan.of("resize(scale=0.7)")) == 1
    fewer = {(visual // 2, text): weight for (visual, text), weight in PROMPTS.items()}
    half = replace(flops, shorter=lambda _: fewer, _memo={})
    dense = replace(flops, prompts=fewer, _memo={})
    whole = flops._total(Plan())
    assert half.ratio(plan) == pytest.approx(dense.ratio(skips) * dense._total(Plan()) / whole)
    assert half.ratio(skips) == flops.ratio(skips)


def test_rows_of_smaller_pictures_are_counted_where_pictures_are_cut_into_tiles(tmp_path):
    loaded = models.load(str(folders.write(tmp_path / "tiles", "llava_next-mistral")))
    sample = Sample("one", "mine", "mine", (Image.new("RGB", (48, 24)),), "is it red?")
    half = Plan.of("resize(scale=0.5)")
    shorter = shorter_of(loaded, [sample])
    # It is blown up to as many tiles again: the area says a quarter, and nothing is saved.
    assert shorter(half) == typical(count_prompts(loaded, [sample]))
    pricer = Pricer(
        FlopsMeter(loaded.shape), loaded.shape, typical(count_prompts(loaded, [sample])), shorter=shorter
    )
    assert pricer.ratio(half) == 1 and replace(pricer, shorter=None, _memo={}).ratio(half) < 0.5


def test_typical_prompts_are_few_and_keep_the_means():
    many = {(100 + n % 40, 5 + n % 17): 1.0 + n % 3 for n in range(400)}
    few = typical(many, most=6)
    total = sum(many.values())
    assert len(few) <= 12 and sum(few.values()) == pytest.approx(total)
    for place in (0, 1):
        mean = sum(prompt[place] * weight for prompt, weight in many.items()) / total
        assert sum(prompt[place] * weight for prompt, weight in few.items()) / total == pytest.approx(
            mean, abs=0.5
        )
    shape = SHAPES["llava-1.5-7b"]
    plan = Plan.of("divprune(keep=0.5)+shortv(layers=20-31)")
    prices = [Pricer(FlopsMeter(shape), shape, prompts).ratio(plan) for prompts in (many, few)]
    assert prices[1] == pytest.approx(prices[0], rel=5e-3)


def test_prompts_of_one_size_keep_their_mean_text():
    assert typical({(100, 6): 3.0, (100, 9): 1.0}) == {
        (100, 6): pytest.approx(1.0),
        (100, 7): pytest.approx(3.0),
    }
