"""``executed`` FLOPs are counted, not claimed: they equal torch's counter on real decoder layers."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import saccade
from matrix.cases import PLANS, SCENES, fits, inputs, model
from saccade.core.layout import Layout
from saccade.core.pricing import cost
from saccade.engine.prompt import layout_of_inputs
from saccade.families import find
from saccade.measure.counter import meter
from saccade.plans.plan import Plan
from support.models import FACTORIES

EVERY_PLAN = ["dense", *PLANS]
WITHIN = 0.005


def counted(layers, run) -> int:
    """FLOPs that torch dispatches inside the given modules."""

    meters: list[FlopCounterMode] = []

    def enter(module, args, kwargs):
        meters.append(meter())
        meters[-1].__enter__()

    def leave(module, args, kwargs, output):
        meters[-1].__exit__(None, None, None)

    handles = [m.register_forward_pre_hook(enter, with_kwargs=True) for m in layers]
    handles += [m.register_forward_hook(leave, with_kwargs=True) for m in layers]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return sum(each.get_total_flops() for each in meters)


def price(tiny, given, plan):
    """The closed form for these inputs."""
    family = find(tiny.model)
    shape = family.shape(tiny.model.config)
    layout = layout_of_inputs(family, tiny.model, given)
    return cost(shape, Plan.of(plan).route(layout, shape.layers))


CASES = [
    (plan, family, scene)
    for plan in EVERY_PLAN
    for family in FACTORIES
    for scene in SCENES
    if fits(family, scene)
]


@pytest.mark.share(12)
@pytest.mark.parametrize(("plan", "family", "scene"), CASES)
@torch.no_grad()
def test_executed_flops_are_what_torch_counts(plan, family, scene):
    tiny, given = model(family, ("sdpa", "eager")[len(scene) % 2]), inputs(family, scene)
    layers = find(tiny.model).parts(tiny.model).layers
    priced = price(tiny, given, plan)
    with saccade.apply(tiny.model, plan):
        ours = counted(layers, lambda: tiny.model(**given))
    assert ours == pytest.approx(priced.executed_tflops * 1e12, rel=WITHIN)
    dense = counted(layers, lambda: tiny.model(**given))
    assert dense == pytest.approx(priced.dense_executed_tflops * 1e12, rel=WITHIN)
    # A ragged batch is computed to its longest sample, a text-only one included: it may save nothing.
    if plan != "dense" and scene.startswith("single"):
        assert abs(ours - dense) > 2 * WITHIN * dense, "no power: the plan saves too little to be told apart"
    if plan == "dense":
        assert ours == dense and priced.executed_ratio == 1


@pytest.mark.parametrize(
    "plan", ["vskip(layers=0)", "ffn_skip(layers=0)", "shortv(layers=0)", "vtw(layer=0)"]
)
@torch.no_grad()
def test_at_the_width_of_llava_7b(plan, wide_llava):
    layer_model, family, layout, embeds = wide_llava
    shape = family.shape(layer_model.config)
    parts = family.parts(layer_model)
    priced = cost(shape, Plan.of(plan).route(layout, 1))
    with saccade.apply(layer_model, plan) as attachment, attachment.with_layout(layout):
        ours = counted(parts.layers, lambda: parts.decoder(inputs_embeds=embeds, use_cache=False))
    assert ours == pytest.approx(priced.executed_tflops * 1e12, rel=WITHIN)
    assert priced.executed_ratio < 0.95


@pytest.fixture(scope="module")
def wide_llava():
    """One decoder layer at full width with weights that were never drawn: only shapes matter to a counter."""
    from saccade.core.shapes import SHAPES

    family = find(FACTORIES["llava-llama"]().model)
    config = family.config(SHAPES["llava-1.5-7b"], layers=1)
    config.text_config.vocab_size = 64
    config.image_token_index = config.image_token_id = 63
    with torch.device("meta"):
        built = family.model_class()(config)
    parts = family.parts(built)
    parts.decoder.to_empty(device="cpu")
    for parameter in parts.decoder.parameters():
        torch.nn.init.constant_(parameter, 1e-3)
    parts.decoder.rotary_emb = type(parts.decoder.rotary_emb)(config.text_config)
    layout = Layout.single(visual=100, text=30, prefix=12)
    return built.eval(), family, layout, torch.full((1, 130, 4096), 0.5)
