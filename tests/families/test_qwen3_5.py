"""Qwen3.5: layers that mix rows through a state, held against the stock layer on prompts that are shorter."""

from __future__ import annotations

import pytest
import torch

import saccade
from matrix.cases import PLANS, SCENES, TOLERANCE, fits, greedy
from saccade.core.layout import Layout
from saccade.core.pricing import cost
from saccade.core.shapes import SHAPES
from saccade.engine import attached
from saccade.engine.join import join, parts
from saccade.families import find
from saccade.plans.budget import price_prompt, resolve_for_prompt
from saccade.plans.plan import Plan
from support.models import BANNER, BIG, SQUARE, TALL, WIDE, tiny_qwen3_5
from support.reference import extend, gap, masked, step_logits
from support.rowwise import rowwise, sets_of
from support.shortened import shortened
from support.states import check_layers, check_refused, layer_flops
from support.turns import next_turn, stock_takes_new_images

PATTERNS = {"published": lambda n: n % 4 != 3, "in turn": lambda n: n % 2 == 0}
"""Which layers recur: three of four, as in the published models; every second one, the first among them."""
RAGGED = [[2, SQUARE, 3, WIDE, 2], [4], [3, TALL, 1, BANNER, 2]]
LONG = [[3, BIG, 40, BIG, 30], [70, SQUARE, 9]]
"""Prompts of more than one chunk of the stock scan, which has 64 rows."""


@pytest.fixture(scope="module", params=PATTERNS)
def tiny(request):
    return tiny_qwen3_5(recurrent=PATTERNS[request.param])


@pytest.mark.share(4)
@pytest.mark.parametrize("plan", [plan for plan in PLANS if "mask" not in plan])
@pytest.mark.parametrize("scene", [scene for scene in SCENES if fits("qwen3_5", scene)])
def test_every_layer_equals_the_stock_layer_on_the_rows_that_are_alive(tiny, plan, scene):
    check_layers(tiny, plan, scene)


@pytest.mark.parametrize("plan", ["shortv(layers=0-2)", "vtw(layer=1)", "uniform(keep=0.4)+vskip(layers=1)"])
@torch.no_grad()
def test_prompts_of_several_chunks_in_a_batch_equal_their_singles(tiny, plan):
    batch, singles = tiny.batch(LONG, "left", seed=3), tiny.singles(LONG, seed=3)
    with saccade.apply(tiny.model, plan):
        together = tiny.model(**batch).logits
        for b, single in enumerate(singles):
            real, text = batch["attention_mask"][b].bool(), ~tiny.visual(single)[0]
            alone = tiny.model(**single).logits[0]
            assert gap(together[b, real][text], alone[text]) < 2 * TOLERANCE


@pytest.mark.parametrize(
    "plan", ["divprune(keep=0.4)", "random(keep=9)+random(keep=4,layer=1)", "vtw(layer=2)"]
)
def test_it_is_the_prompt_that_really_is_shorter(tiny, plan):
    for given in tiny.singles(RAGGED, seed=2):
        found = shortened(tiny, plan, given)
        if found is None:
            continue
        theirs, rows = found
        with torch.no_grad(), saccade.apply(tiny.model, plan):
            ours = tiny.model(**given).logits[0, rows]
        assert gap(ours, theirs) < TOLERANCE


@pytest.mark.parametrize("plan", ["vskip(layers=1-2)", "shortv(layers=0)+vtw(layer=1)"])
def test_generation_on_the_cache_and_later_turns_equal_recomputation(tiny, plan):
    """Samples of a later turn are of different lengths: states are told of different numbers of rows."""
    first, turns = [[3, SQUARE, 2], [2, WIDE, 4], [5]], {"text": [[3], [5], [2]]}
    if stock_takes_new_images("qwen3_5"):
        turns["image"] = [[2, TALL, 1], [1, SQUARE, 2], [1, BANNER, 3]]
    given = tiny.batch(first, "left", seed=4)
    for second in turns.values():
        with saccade.apply(tiny.model, plan):
            said = greedy(tiny, given, 3)
            cached, full = next_turn(tiny, first, given, said.sequences, second)
            ours = greedy(tiny, cached, 3, past_key_values=said.past_key_values)
        for inputs, told in ((given, said), (full, ours)):
            theirs = step_logits(tiny.model, PLANS.get(plan) or _RECIPES[plan], inputs, told.sequences)
            for step, logits in enumerate(told.logits):
                assert gap(logits, theirs[:, step]) < TOLERANCE


_RECIPES = {"shortv(layers=0)+vtw(layer=1)": [("shortv", (0,)), ("vtw", (1, 2, 3))]}


@torch.no_grad()
def test_padding_on_the_right_enters_no_state(tiny):
    """The stock model runs its states on through it, so that what follows is wrong there."""
    given, plan = tiny.batch(RAGGED, "right", seed=2), "uniform(keep=0.5)"
    more = tiny.batch([[1]] * 3, seed=9)["input_ids"]
    whole = extend(given, torch.cat([given["input_ids"], more], 1))
    at, _ = tiny.model.model.get_rope_index(
        whole["input_ids"], whole["mm_token_type_ids"], whole["image_grid_thw"],
        attention_mask=whole["attention_mask"],
    )  # fmt: skip
    length = given["input_ids"].shape[1]
    with saccade.apply(tiny.model, plan) as handle, handle.tracing() as traces:
        cache = tiny.model(**given, position_ids=at[..., :length], use_cache=True).past_key_values
        ours = tiny.model(
            input_ids=more, attention_mask=whole["attention_mask"], position_ids=at[..., length:],
            past_key_values=cache, use_cache=True,
        ).logits  # fmt: skip
    with rowwise(tiny.model, sets_of(traces[0])):
        theirs = tiny.model(**whole, position_ids=at, use_cache=False).logits
    assert gap(ours, theirs[:, length:]) < TOLERANCE


def test_a_plan_is_found_on_a_model_whose_first_layer_recurs(tiny):
    before = {name: vars(module).copy() for name, module in tiny.model.named_modules()}
    with saccade.apply(tiny.model, "vtw(layer=1)") as handle:
        assert attached(tiny.model) is handle
        with pytest.raises(ValueError, match="has a saccade plan"):
            saccade.apply(tiny.model, "vtw(layer=2)")
    assert attached(tiny.model) is None
    assert all(vars(module).keys() == before[name].keys() for name, module in tiny.model.named_modules())


REFUSED = {
    "fastv(layer=1,keep=0.5)": "attention of layer 0, which is recurrent .* before layer 2",
    "pyramiddrop(layers=2,keep=0.5)": "attention of layer 2, which is recurrent .* before layer 1, 3",
    "vskip(layers=0,reading=mask)": "layer 0 is recurrent, .* not hidden from some rows",
    "skip_vision(retained=0.5,cache=small)": "layer 0 is recurrent, .* do not leave it",
}


@pytest.mark.parametrize("plan", REFUSED)
def test_what_a_state_cannot_honour_is_refused_in_one_line_and_so_is_its_price(plan):
    tiny = tiny_qwen3_5(recurrent=PATTERNS["in turn"])
    check_refused(tiny, plan, REFUSED[plan])
    with pytest.raises(ValueError, match=REFUSED[plan].split(" .*")[0]):
        price_prompt(Plan.of(plan), find(tiny.model).shape(tiny.model.config), 9, 8)


@torch.no_grad()
@pytest.mark.parametrize("plan", ["dense", "vskip(layers=0-1)", "shortv(layers=0-1)", "vtw(layer=1)"])
def test_flops_of_recurrent_layers_are_what_torch_counts(tiny, plan):
    family, given = find(tiny.model), tiny.batch(LONG[:1], seed=3)
    shape = family.shape(tiny.model.config)
    priced = cost(shape, Plan.of(plan).route(Layout.from_mask(tiny.visual(given)), shape.layers))
    assert layer_flops(tiny, plan, given) == round(priced.executed_tflops * 1e12)


def test_skipping_attention_in_a_recurrent_layer_spares_nothing():
    shape = SHAPES["qwen3.5-9b"]
    assert [n for n, one in enumerate(shape.each_layer) if one.recurrent is None] == list(range(3, 32, 4))
    prices = {
        spec: price_prompt(Plan.of(spec), shape, 1280, 60)
        for spec in ("vskip(layers=0-2)", "vskip(layers=3)")
    }
    assert prices["vskip(layers=0-2)"].ratio == prices["vskip(layers=0-2)"].executed_ratio == 1
    assert prices["vskip(layers=3)"].ratio < 1
    # Eight layers of 32 hold keys.
    assert prices["vskip(layers=3)"].kv_bytes == 8 * 2 * 1340 * 4 * 256 * 2
    assert price_prompt(Plan.of("vtw(layer=16)"), shape, 1280, 60).ratio < 0.55


def test_budgets_take_layers_in_which_skipping_spares_something():
    shape = SHAPES["qwen3.5-9b"]
    found = {spec: resolve_for_prompt(Plan.of(spec), shape, 1280, 60).spec for spec in (
        "vskip(budget=3)", "ffn_skip(budget=3)", "vskip(flops=0.985)",
    )}  # fmt: skip
    assert found["vskip(budget=3)"] == "vskip(layers=23,27,31)"
    assert found["ffn_skip(budget=3)"] == "ffn_skip(layers=29-31)"
    layers = Plan.of(found["vskip(flops=0.985)"]).methods[0].layers
    assert layers and all(shape.each_layer[n].recurrent is None for n in layers)
    with pytest.raises(ValueError, match="only 8 to choose from"):
        resolve_for_prompt(Plan.of("vskip(budget=9)"), shape, 1280, 60)


@torch.no_grad()
def test_caches_of_prompts_that_were_read_apart_stand_side_by_side(tiny):
    samples, plan = [[3, SQUARE, 5], [2, WIDE, 1, TALL, 3]], "divprune(keep=0.5)"
    with saccade.apply(tiny.model, plan):
        alone = [greedy(tiny, one, 3) for one in tiny.singles(samples, seed=5)]
        caches = [tiny.model(**one, use_cache=True).past_key_values for one in tiny.singles(samples, seed=5)]
        assert not any(parts(cache) for cache in caches)
        both, masks, at = join(caches), [], []
        for one in tiny.singles(samples, seed=5):
            ids, _ = tiny.model.model.get_rope_index(
                one["input_ids"], one["mm_token_type_ids"], one["image_grid_thw"]
            )
            at.append(ids[..., -1:] + 1)
            masks.append(one["attention_mask"])
        longest = max(mask.shape[1] for mask in masks)
        mask = torch.cat([torch.nn.functional.pad(m, (longest - m.shape[1], 0)) for m in masks])
        said = torch.cat([told.sequences[:, -3:] for told in alone])
        for step in range(2):
            mask = torch.nn.functional.pad(mask, (0, 1), value=1)
            ours = tiny.model(
                input_ids=said[:, step : step + 1], attention_mask=mask, use_cache=True,
                position_ids=torch.cat(at, 1) + step, past_key_values=both,
            ).logits[:, -1]  # fmt: skip
            theirs = torch.cat([told.logits[step + 1] for told in alone])
            assert gap(ours, theirs) < TOLERANCE


def test_gradients_are_those_of_the_slow_account_and_survive_checkpointing(tiny):
    given, plan = tiny.batch(RAGGED[:1], seed=2), "shortv(layers=0)+vtw(layer=2)"
    recipe = [("shortv", (0,)), ("vtw", (2, 3))]
    layer = find(tiny.model).parts(tiny.model).layers[0]
    weight = layer.linear_attn.in_proj_qkv.weight

    def gradient(run) -> torch.Tensor:
        tiny.model.zero_grad()
        run().logits[:, -1].logsumexp(-1).sum().backward()
        return weight.grad.clone()

    with masked(tiny.model, recipe):
        theirs = gradient(lambda: tiny.model(**given, use_cache=False))
    with saccade.apply(tiny.model, plan):
        ours = gradient(lambda: tiny.model(**given, use_cache=False))
        kind = "activation" if hasattr(tiny.model, "activation_checkpointing_enable") else "gradient"
        getattr(tiny.model.train(), f"{kind}_checkpointing_enable")()
        again = gradient(lambda: tiny.model(**given, use_cache=False))
        getattr(tiny.model.eval(), f"{kind}_checkpointing_disable")()
    tiny.model.zero_grad()
    for mine in (ours, again):
        assert float((mine - theirs).abs().max() / theirs.abs().max()) < 1e-4
