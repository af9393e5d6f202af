"""Llama 4: parts of rows, layers without positions whose queries grow, experts that all run, tiles."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import BatchFeature

import saccade
from matrix.cases import PLANS, SCENES, TOLERANCE, greedy
from saccade.core.pricing import cost
from saccade.core.shapes import SHAPES
from saccade.engine import kv_lengths
from saccade.engine.prompt import layout_of_inputs
from saccade.engine.sights import sights_of
from saccade.families import find
from saccade.plans.plan import Plan
from support.looking import look
from support.models import BANNER, BIG, SQUARE, TALL, WIDE, decoder_of, tiny_llama4
from support.reference import gap, kv_rows, recompute, step_logits
from support.sight import held
from support.states import check_refused, layer_flops

APART = [[3, WIDE, 2, SQUARE, 4], [2, BANNER, 3, TALL, 2]]
GROWS = {"floor_scale": 3, "attn_scale": 0.7}
"""Queries that grow within the prompts of the tests."""


@pytest.fixture(scope="module", params=["sdpa", "eager"])
def tiny(request):
    return tiny_llama4(attn=request.param, **GROWS)


def stock_masks(tiny: Any, given: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """What each layer of the stock model is shown (B, N, N)."""
    found: list[torch.Tensor] = []

    def catch(module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        mask = kwargs["attention_mask"][:, 0]
        found.append(mask if mask.dtype == torch.bool else mask == 0)

    layers = decoder_of(tiny.model).layers
    hooks = [layer.self_attn.register_forward_pre_hook(catch, with_kwargs=True) for layer in layers]
    tiny.model(**given)
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("padding", ["left", "right"])
@torch.no_grad()
def test_parts_are_counted_from_where_a_sample_begins(padding):
    tiny = tiny_llama4(attn="eager")
    given = tiny.batch([[2, SQUARE, TALL, 3], [4], [1, SQUARE, 5, SQUARE, 2]], padding, seed=1)
    mask, family = given["attention_mask"].bool(), find(tiny.model)
    ids = torch.arange(mask.shape[1])[None]
    ours = sights_of(family, family.rules(tiny.model.config), given, 0, mask.shape[1], mask)
    for sight, theirs in zip(ours, stock_masks(tiny, given), strict=True):
        seen = sight.seen(ids, ids).expand_as(theirs) & mask[:, None, :]
        assert torch.equal(seen[mask], (theirs & mask[:, None, :])[mask])
    assert [sight.chunk for sight in ours] == [16, 16, 16, None]


@pytest.mark.share(3)
@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("scene", SCENES)
@torch.no_grad()
def test_gather_equals_mask(tiny, plan, scene):
    """Every layer equals the stock layer with a mask, on prompts of several parts; caches hold their rows."""
    samples, padding = SCENES[scene]
    given = tiny.batch(samples, padding, seed=1)
    with saccade.apply(tiny.model, plan):
        ours = tiny.model(**given)
    theirs = recompute(tiny.model, PLANS[plan], given).logits
    assert gap(ours.logits, theirs, given["attention_mask"]) < TOLERANCE
    rows = kv_rows(PLANS[plan], 4, tiny.visual(given), given["attention_mask"])
    assert kv_lengths(ours.past_key_values) == held(tiny.model.config, rows)


@pytest.mark.parametrize("plan", ["vskip(layers=1-2)", "vskip(layers=1)+vtw(layer=2)", "vtw(layer=0)"])
@torch.no_grad()
def test_generation_over_the_edges_of_parts_is_recomputation(tiny, plan):
    given = tiny.batch([[2, SQUARE, 3], [4], [3, TALL, 2]], "left", seed=2)
    with saccade.apply(tiny.model, plan):
        said = greedy(tiny, given, 20)
    theirs = step_logits(tiny.model, PLANS[plan], given, said.sequences)
    for step, logits in enumerate(said.logits):
        assert gap(logits, theirs[:, step]) < TOLERANCE, step


@torch.no_grad()
def test_a_prompt_with_closed_up_positions_is_the_prompt_without_the_rows(tiny):
    """Parts and queries go by what is left, and so do the tokens that follow."""
    (given,) = tiny.singles([[3, WIDE, 7]], seed=3)
    with (
        saccade.apply(tiny.model, "random(keep=0.3,position_policy=compact)") as handle,
        handle.tracing() as traces,
    ):
        ours = tiny.model(**given).logits[0]
        said = greedy(tiny, given, 12)
    stay = traces[0].alive(0)[0] | traces[0].layout.text_BN[0]
    embeds = tiny.model.get_input_embeddings()(given["input_ids"])
    made = tiny.model.vision_model(given["pixel_values"]).last_hidden_state
    embeds[tiny.visual(given)] = tiny.model.multi_modal_projector(made.flatten(0, 1))
    theirs = tiny.model(inputs_embeds=embeds[:, stay]).logits[0]
    assert gap(ours[stay], theirs) < TOLERANCE
    later = tiny.model.get_input_embeddings()(said.sequences[:, given["input_ids"].shape[1] :])
    whole = tiny.model(inputs_embeds=torch.cat([embeds[:, stay], later], 1)).logits[0]
    for step, logits in enumerate(said.logits):
        assert gap(logits[0], whole[int(stay.sum()) - 1 + step]) < TOLERANCE, step


@torch.no_grad()
@pytest.mark.parametrize("plan", ["dense", "ffn_skip(layers=0-1)", "shortv(layers=1-2)", "vtw(layer=1)"])
def test_flops_are_of_all_experts_as_torch_counts_and_the_papers_of_those_chosen(plan):
    tiny = tiny_llama4()
    given, family = tiny.batch(APART[:1], seed=3), find(tiny.model)
    shape = family.shape(tiny.model.config)
    priced = cost(shape, Plan.of(plan).route(layout_of_inputs(family, tiny.model, given), 4))
    assert layer_flops(tiny, plan, given) == round(priced.executed_tflops * 1e12)
    plain, sparse = shape.each_layer[0], shape.each_layer[1]
    # One of four experts and the shared one; all of them, and the router either way.
    assert sparse.ffn_flops == 2 * 64 * (3 * 2 * 48 + 4) and plain.ffn_flops == 2 * 64 * 3 * 80
    assert sparse.ffn_dispatched == 2 * 64 * (3 * 5 * 48 + 4) and plain.ffn_dispatched == plain.ffn_flops


def test_the_preset_is_the_published_model():
    shape = SHAPES["llama-4-scout"]
    sizes = shape.each_layer
    assert sum(one.weights() for one in sizes) + 2 * shape.hidden * shape.vocab == pytest.approx(
        107.0e9, rel=0.01
    )
    assert sum(one.rule.chunk is None for one in sizes) == 12


@torch.no_grad()
def test_views_of_an_image_are_one_and_the_last_of_them_is_the_whole(tiny):
    family, given = find(tiny.model), tiny.batch(APART, seed=4)
    apart = family.picture(tiny.model, given)
    assert apart.lengths == (9,) * 10 and apart.views == (1,) * 10
    shown = family.grouped(tiny.model, apart, given)
    assert shown.lengths == (27, 9, 27, 27) and shown.views == (3, 1, 3, 3)
    planes = [shown.plane_R[shown.view_R == view].unique().tolist() for view in range(10)]
    assert planes == [[1], [2], [0], [0], [1], [2], [0], [1], [2], [0]]


@torch.no_grad()
def test_the_tower_tells_what_patches_of_a_row_get_of_its_last_row():
    tiny = tiny_llama4(attn="eager")
    given = tiny.batch(APART, seed=5)
    found, layout, _, embeddings = look(tiny.model, given)
    maps: list[torch.Tensor] = []
    last = tiny.model.vision_model.model.layers[-1].self_attn
    hook = last.register_forward_hook(lambda m, args, out: maps.append(out[1]))
    tiny.model.vision_model(given["pixel_values"])
    hook.remove()
    # CLS stands behind the 36 patches, six lines of six.
    cls = maps[0].mean(1)[:, -1, :-1].view(-1, 3, 2, 3, 2).mean((2, 4)).flatten()
    at = layout.visual_BN
    torch.testing.assert_close(found.attention_BN[at], cls)
    assert torch.equal(found.features_BNV[at], embeddings[at]) and found.cls_TV is None


def test_tiles_and_smaller_pictures():
    settings = SimpleNamespace(size={"height": 336}, max_patches=16, resize_to_max_canvas=False)
    processor, family = SimpleNamespace(image_processor=settings), find(tiny_llama4().model)
    picture = Image.new("RGB", (1024, 768))
    boxes = family.crops(processor, picture)
    # Four by three tiles, of which the picture fills 1024 by 768 of 1344 by 1008 pixels.
    assert len(boxes) == 13 and boxes[2] == (1 / 4, 0.0, 2 / 4, 1 / 3)
    assert boxes[0] == pytest.approx((0.0, 0.0, 1024 / 1344, 768 / 1008))
    assert family.seen(processor, picture).size == (1344, 1008)
    assert family.crops(processor, Image.new("RGB", (336, 336))) == []
    (small,), more = family.smaller(processor, [picture], 0.5)
    assert small.size == (512, 384) and more == {}
    (small,), _ = family.smaller(processor, [Image.new("RGB", (4000, 4000))], 0.5)
    assert small.size == (672, 672)


def test_what_the_tower_cannot_do_is_refused_in_one_line():
    check_refused(tiny_llama4(), "tome(r=2)", "tokens cannot merge inside the vision tower of Llama 4")
    check_refused(tiny_llama4(), "pixelprune()", "Llama 4: patches cannot leave before its vision tower")


def test_training_has_the_gradients_of_the_masked_model():
    tiny = tiny_llama4(**GROWS)
    given = tiny.batch([[3, SQUARE, 9], [6], [1, BIG, 4]], "right", seed=6)
    labels = given["input_ids"].masked_fill(~given["attention_mask"].bool() | tiny.visual(given), -100)
    tiny.model.train()
    found = []
    from support.reference import masked

    recipe = PLANS["shortv(layers=0)+ffn_skip(layers=1-2)+vtw(layer=3)"]
    for run in (
        saccade.apply(tiny.model, "shortv(layers=0)+ffn_skip(layers=1-2)+vtw(layer=3)"),
        masked(tiny.model, recipe),
    ):
        with run:
            tiny.model.zero_grad()
            tiny.model(**given, labels=labels, use_cache=False).loss.backward()
        found.append(torch.cat([p.grad.flatten() for p in tiny.model.parameters() if p.grad is not None]))
    assert (found[0] - found[1]).norm() / found[1].norm() < 1e-5


@pytest.mark.filterwarnings("ignore:Casting complex")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_tables_that_were_cast_to_real_numbers_are_named(dtype):
    """``Module.to`` casts complex buffers, and the stock tower then turns nothing."""
    small = tiny_llama4()
    inputs = small.batch([[3, SQUARE, 4]])
    small.model.to(dtype)
    refused = pytest.raises(ValueError, match=r"complex tables .* load it with dtype")
    with saccade.apply(small.model, "fastervlm(keep=0.5)"), refused:
        small.model(**BatchFeature(inputs).to(dtype))
    kept = tiny_llama4(dtype=dtype)
    with saccade.apply(kept.model, "fastervlm(keep=0.5)"):
        assert kept.model(**BatchFeature(inputs).to(dtype)).logits.isfinite().all()
