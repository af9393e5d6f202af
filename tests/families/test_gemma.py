"""Gemma 3 and PaliGemma 2: what is told by ``token_type_ids``, in prompts, answers, training and turns."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from matrix.cases import TOLERANCE, greedy
from saccade import apply
from saccade.core.sight import Sight
from saccade.engine.sights import sights_of
from saccade.families import find
from support.models import SQUARE, TALL, tiny_gemma3, tiny_paligemma
from support.reference import gap, masked, recompute

PAIRS = [("gemma3", tiny_gemma3), ("paligemma", tiny_paligemma)]
PLAN, RECIPE = "vskip(layers=1)+vtw(layer=2)", [("vskip", (1,)), ("vtw", (2, 3))]


def stock_masks(tiny: Any, given: dict[str, torch.Tensor]) -> dict[int, torch.Tensor]:
    """What the stock core hands to each layer, as what is shown (B, N, N)."""
    found: dict[int, torch.Tensor] = {}

    def catch(number: int):
        def hook(module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
            mask = kwargs["attention_mask"][:, 0]
            found[number] = mask if mask.dtype == torch.bool else mask == 0

        return hook

    layers = tiny.model.model.language_model.layers
    hooks = [
        one.self_attn.register_forward_pre_hook(catch(n), with_kwargs=True) for n, one in enumerate(layers)
    ]
    tiny.model(**given)
    for hook in hooks:
        hook.remove()
    return found


def shown(sight: Sight, rows: int) -> torch.Tensor:
    """What our rule shows (B, N, N)."""
    ids, block = torch.arange(rows)[None], sight.block_BT
    return sight.seen(ids, ids) if block is None else sight.seen(ids, ids, block, block)


@pytest.mark.parametrize(("name", "make"), PAIRS)
@pytest.mark.parametrize("padding", ["left", "right"])
@torch.no_grad()
def test_what_rows_see_is_what_the_stock_masks_show(name, make, padding):
    """Images that touch, crops between words, several of them, text alone."""
    tiny = make(attn="eager")
    given = tiny.batch([[2, SQUARE, TALL, 3], [4], [1, SQUARE, 5, SQUARE, 2]], padding, seed=1)
    theirs, mask = stock_masks(tiny, given), given["attention_mask"].bool()
    family, rows = find(tiny.model), mask.shape[1]
    ours = sights_of(family, family.rules(tiny.model.config), given, 0, rows, mask)
    assert len({id(sight) for sight in ours}) == 2, "one for each kind of layer"
    for number, sight in enumerate(ours):
        wanted = theirs[number] & mask[:, None, :]
        assert torch.equal((shown(sight, rows) & mask[:, None, :])[mask], wanted[mask]), number


@torch.no_grad()
def test_gemma_3_is_causal_where_it_is_not_told_which_rows_are_an_image():
    tiny = tiny_gemma3()
    (given,) = tiny.singles([[3, SQUARE, 5]], seed=1)
    told = tiny.model(**given).logits
    del given["token_type_ids"]
    with apply(tiny.model, PLAN):
        ours = tiny.model(**given).logits
    assert gap(ours, recompute(tiny.model, RECIPE, given).logits) < TOLERANCE
    assert gap(tiny.model(**given).logits, told) > 1e-2


@torch.no_grad()
def test_paligemma_is_refused_where_it_is_not_told_what_the_prompt_is():
    tiny = tiny_paligemma()
    (given,) = tiny.singles([[3, SQUARE, 5]], seed=1)
    del given["token_type_ids"]
    with apply(tiny.model, PLAN), pytest.raises(ValueError, match="give those of the processor"):
        tiny.model(**given)


def test_an_embedding_gemma_is_refused():
    tiny = tiny_gemma3()
    tiny.model.config.text_config.use_bidirectional_attention = True
    with pytest.raises(ValueError, match="makes embeddings, not answers"):
        apply(tiny.model, PLAN)


@pytest.mark.parametrize("spec", ["vskip(layers=1)+vtw(layer=2)", "shortv(layers=0-2)"])
def test_training_with_an_answer_has_the_gradients_of_the_masked_model(spec):
    """The answer is causal, the prompt is not; a row that skips rides the residual through every norm."""
    recipe = RECIPE if "vtw" in spec else [("shortv", (0, 1, 2))]
    for _, make in PAIRS:
        tiny = make()
        given = tiny.batch([[3, SQUARE, 9], [6]], "right", seed=2)
        if tiny.family == "paligemma":
            given["token_type_ids"][:, -5:] = 1
        labels = given["input_ids"].masked_fill(~given["attention_mask"].bool(), -100)
        labels[:, :-5] = -100
        tiny.model.train()
        losses, gradients = [], []
        for run in (apply(tiny.model, spec), masked(tiny.model, recipe)):
            with run:
                tiny.model.zero_grad()
                loss = tiny.model(**given, labels=labels, use_cache=False).loss
                loss.backward()
            losses.append(loss.item())
            gradients.append(
                torch.cat([p.grad.flatten() for p in tiny.model.parameters() if p.grad is not None])
            )
        tiny.model.eval()
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)
        far = (gradients[0] - gradients[1]).norm() / gradients[1].norm()
        assert far < 1e-5, tiny.name


def noted(into: list[torch.Tensor]) -> Any:
    return lambda module, args, output: into.append(output)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision_stays_near_and_skipped_rows_get_nothing(dtype):
    for _, make in PAIRS:
        exact, half = make(), make(dtype=dtype)
        (given,), (low,) = exact.singles([[3, SQUARE, 5]], seed=1), half.singles([[3, SQUARE, 5]], seed=1)
        with apply(exact.model, PLAN):
            wanted = exact.model(**given).logits
        added: list[torch.Tensor] = []
        layer = half.model.model.language_model.layers[1]
        hook = layer.post_attention_layernorm.register_forward_hook(noted(added))
        with apply(half.model, PLAN):
            ours = half.model(**low).logits
        hook.remove()
        assert not added[0][0][half.visual(low)[0]].any()
        assert gap(ours.float(), wanted) < 0.15, half.name


@pytest.mark.parametrize(("name", "make"), PAIRS)
def test_a_cache_goes_on_as_the_whole_sequence_would(name, make):
    """Generation, then text by hand on a cache that has slid: all rows of the turn, not the last alone."""
    tiny = make()
    (given,) = tiny.singles([[3, SQUARE, 5]], seed=1)
    said = torch.randint(8, 100, (1, 15), generator=torch.Generator().manual_seed(0))
    whole = given | {"input_ids": torch.cat([given["input_ids"], said], 1)}
    whole["attention_mask"] = torch.ones_like(whole["input_ids"])
    kinds = given["token_type_ids"]
    after = torch.full_like(said, int(name == "paligemma"))
    whole["token_type_ids"] = torch.cat([kinds, after.to(kinds)], 1)
    theirs = recompute(tiny.model, RECIPE, whole).logits
    with apply(tiny.model, PLAN), torch.no_grad():
        cache = tiny.model(**given, use_cache=True).past_key_values
        text = {"attention_mask": whole["attention_mask"]}
        ours = tiny.model(input_ids=said, past_key_values=cache, **text).logits
    assert gap(ours, theirs[:, 24:]) < TOLERANCE


def test_assisted_generation_says_what_greedy_says():
    """Guessed tokens are taken back from caches that have slid."""
    tiny = tiny_gemma3()
    (given,) = tiny.singles([[3, SQUARE, 5]], seed=1)
    with apply(tiny.model, "vtw(layer=2)"):
        want = greedy(tiny, given, 6).sequences
        ours = tiny.model.generate(**given, max_new_tokens=6, do_sample=False, prompt_lookup_num_tokens=2)
    assert torch.equal(ours, want)


@torch.no_grad()
def test_rows_and_what_the_tower_says_of_them_are_of_the_same_patches():
    """A row of Gemma 3 is the mean of a square of patches, one of PaliGemma is one patch."""
    for _, make in PAIRS:
        tiny = make()
        given = tiny.batch([[3, SQUARE, 2], [1, SQUARE, 1, TALL, 2]], seed=3)
        family, core = find(tiny.model), tiny.model.model
        shown, tower = family.picture(tiny.model, given), family.tower(tiny.model)
        assert shown.lengths == (16, 16, 16) and shown.views == (1, 1, 1)
        states = core.vision_tower(given["pixel_values"]).last_hidden_state
        packed = core.get_image_features(given["pixel_values"]).pooler_output.flatten(0, 1)
        for number, row in enumerate(packed):
            view, line, column = (int(at[number]) for at in (shown.view_R, shown.line_R, shown.column_R))
            side = round(tower.merge**0.5)
            square = (
                states[view]
                .view(4 * side, 4 * side, -1)[
                    line * side : line * side + side, column * side : column * side + side
                ]
                .flatten(0, 1)
            )
            projector = core.multi_modal_projector
            if tiny.family == "paligemma":
                wanted = projector(square)[0]
            else:
                wanted = projector.mm_soft_emb_norm(square.mean(0)) @ projector.mm_input_projection_weight
            assert torch.allclose(row, wanted, atol=1e-5)
        pooled = states.flatten(0, 1)
        order = family.tower_order(tower, {"pixel_values": given["pixel_values"]})
        if order is not None:
            means = pooled[order].unflatten(0, (-1, tower.merge)).mean(1)
            again = projector.mm_soft_emb_norm(means) @ projector.mm_input_projection_weight
            assert torch.allclose(again, packed, atol=1e-5)
