"""The gathered path computes what the masked reference computes, in one forward over the prompt."""

from __future__ import annotations

import pytest
import torch

import saccade
from matrix.cases import (
    ATTENTIONS,
    FAR,
    LAYERS,
    PLAIN,
    PLANS,
    SCENES,
    TEXT,
    TOLERANCE,
    crossed,
    inputs,
    model,
    scenes_of,
    share,
    stock,
)
from saccade.engine import kv_lengths
from saccade.methods import METHODS, BudgetMethod
from support.models import FACTORIES
from support.reference import gap, kv_rows, recompute
from support.sight import held

CASES = [pytest.param(*case, marks=share(4 if case[0] in PLAIN else 10)) for case in scenes_of(PLANS, SCENES)]


def test_the_matrix_holds_every_registered_method():
    layerwise = {name for name, cls in METHODS.items() if issubclass(cls, BudgetMethod)}
    assert {spec.split("(")[0] for spec in PLAIN} == layerwise


@pytest.mark.parametrize("attn", ATTENTIONS)
@pytest.mark.parametrize(("plan", "family", "scene"), CASES)
@torch.no_grad()
def test_gather_equals_mask(plan, family, attn, scene):
    tiny, given = model(family, attn), inputs(family, scene)
    with saccade.apply(tiny.model, plan):
        ours = tiny.model(**given, use_cache=True)
    theirs = recompute(tiny.model, PLANS[plan], given).logits
    real = given["attention_mask"]
    assert gap(ours.logits, theirs, real) < TOLERANCE
    assert gap(stock(family, attn, scene), theirs, real) > FAR
    rows = kv_rows(PLANS[plan], LAYERS, tiny.visual(given), given["attention_mask"])
    assert kv_lengths(ours.past_key_values) == held(tiny.model.config, rows)
    assert ours.past_key_values.get_seq_length() == given["input_ids"].shape[1]


@share(2)
@pytest.mark.parametrize(("plan", "family"), crossed(PLANS))
@torch.no_grad()
def test_attaching_leaves_no_trace(plan, family):
    tiny, given = model(family), inputs(family, "ragged-1-left")
    with saccade.apply(tiny.model, plan):
        tiny.model(**given)
    assert torch.equal(tiny.model(**given).logits, stock(family, "sdpa", "ragged-1-left"))


@share(12)
@pytest.mark.parametrize(("plan", "family", "scene"), scenes_of(PLANS, SCENES))
@torch.no_grad()
def test_hidden_states_before_the_first_skipped_layer_are_bit_identical(plan, family, scene):
    tiny, given = model(family), inputs(family, scene)
    first = min(layer for _, layers in PLANS[plan] for layer in layers)
    dense = tiny.model(**given, output_hidden_states=True).hidden_states
    with saccade.apply(tiny.model, plan):
        ours = tiny.model(**given, output_hidden_states=True).hidden_states
    theirs = recompute(tiny.model, PLANS[plan], given, output_hidden_states=True).hidden_states
    assert len(ours) == len(dense) == LAYERS + 1
    for number in range(first + 1):
        assert torch.equal(ours[number], dense[number])
    for a, b in zip(ours, theirs, strict=True):
        assert gap(a, b, given["attention_mask"]) < TOLERANCE


@share(1)
@pytest.mark.parametrize("family", FACTORIES)
@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize(
    "plan", ["dense", "vskip(layers=none)", "shortv(layers=none)+ffn_skip(layers=none)", "vtw(layer=4)"]
)
@torch.no_grad()
def test_full_row_sets_are_bit_identical(plan, family, attn):
    for scene in ("single-2", "ragged-2-left", "ragged-1-right"):
        tiny, given = model(family, attn), inputs(family, scene)
        with saccade.apply(tiny.model, plan):
            assert torch.equal(tiny.model(**given).logits, stock(family, attn, scene))


@share(4)
@pytest.mark.parametrize("attn", ATTENTIONS)
@pytest.mark.parametrize(("plan", "family"), crossed(PLANS))
@torch.no_grad()
def test_no_visual_rows_no_effect(plan, family, attn):
    for scene in TEXT:
        tiny, given = model(family, attn), inputs(family, scene)
        with saccade.apply(tiny.model, plan):
            assert torch.equal(tiny.model(**given).logits, stock(family, attn, scene))


@share(2)
@pytest.mark.parametrize(("plan", "family"), crossed(PLANS))
@torch.no_grad()
def test_a_batch_equals_its_singles(plan, family):
    samples = [[2, (24, 24), 3, (24, 48), 2], [4], [(48, 24), 1], [3, (8, 48), 1, (24, 24), 5]]
    for padding, attn in (("left", "sdpa"), ("right", "eager")):
        tiny = model(family, attn)
        batch, singles = tiny.batch(samples, padding, seed=2), tiny.singles(samples, seed=2)
        with saccade.apply(tiny.model, plan):
            logits = tiny.model(**batch).logits
            for b, single in enumerate(singles):
                real = batch["attention_mask"][b].bool()
                assert gap(logits[b, real], tiny.model(**single).logits[0]) < TOLERANCE


@pytest.mark.parametrize("family", ["llava-llama", "qwen2_5_vl"])
@pytest.mark.parametrize("plan", PLANS)
@torch.no_grad()
def test_a_prompt_of_nothing_but_an_image(plan, family):
    tiny = model(family)
    for samples in ([[(24, 24)]], [[(24, 24)], [(24, 48)]], [[(24, 24)], [3]]):
        for padding in ("left", "right"):
            given = tiny.batch(samples, padding)
            with saccade.apply(tiny.model, plan):
                ours = tiny.model(**given).logits
            assert (
                gap(ours, recompute(tiny.model, PLANS[plan], given).logits, given["attention_mask"])
                < TOLERANCE
            )


@pytest.mark.parametrize("plan", PLANS)
@torch.no_grad()
def test_double_precision_agrees_far_beyond_rounding(plan):
    """Wrong by a little is wrong: what fp32 noise could hide shows here."""
    for family in ("llava_next-mistral", "qwen2_5_vl"):
        tiny = FACTORIES[family](dtype=torch.float64)
        given = tiny.batch(SCENES["ragged-2-left"][0], "left", seed=3)
        with saccade.apply(tiny.model, plan):
            ours = tiny.model(**given).logits
        assert gap(ours, recompute(tiny.model, PLANS[plan], given).logits, given["attention_mask"]) < 1e-12
