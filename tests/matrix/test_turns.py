"""Later turns on the cache of a first one equal full recompute of the whole conversation."""

from __future__ import annotations

import pytest
import torch

import saccade
from matrix.cases import LAYERS, PLANS, TOLERANCE, crossed, greedy, model, share
from saccade.engine import kv_lengths
from support.models import BANNER, FACTORIES, RECURRENT, SQUARE, TALL, WIDE
from support.reference import extend, gap, kv_rows, recompute, step_logits
from support.sight import held_after
from support.turns import next_turn

FIRST = [[3, SQUARE, 2], [2, WIDE, 4], [5]]
SECOND = {"text": [[3], [5], [2]], "image": [[2, TALL, 1], [1, SQUARE, 2], [1, BANNER, 3]]}
PAIRS = crossed(PLANS)


def refuses_new_image(plan: str) -> bool:
    """The mask reading hides old visual rows from new ones, which a cache cannot tell apart any more."""
    return "mask" in plan


@share(4)
@pytest.mark.parametrize("second", SECOND)
@pytest.mark.parametrize(("plan", "family"), PAIRS)
def test_generate_on_the_cache_of_the_first_turn(plan, family, second):
    tiny = model(family)
    inputs = tiny.batch(FIRST, "left", seed=4)
    with saccade.apply(tiny.model, plan):
        said = greedy(tiny, inputs, 3)
        cached, full = next_turn(tiny, FIRST, inputs, said.sequences, SECOND[second])
        if second == "image" and refuses_new_image(plan):
            with pytest.raises(ValueError, match="new image"):
                greedy(tiny, cached, 4, past_key_values=said.past_key_values)
            return
        ours = greedy(tiny, cached, 4, past_key_values=said.past_key_values)
    theirs = step_logits(tiny.model, PLANS[plan], full, ours.sequences)
    for step, logits in enumerate(ours.logits):
        assert gap(logits, theirs[:, step]) < TOLERANCE, f"step {step}"
    turns = [tiny.visual(inputs), tiny.visual(full)[:, inputs["input_ids"].shape[1] :]]
    masks = [inputs["attention_mask"], full["attention_mask"][:, inputs["input_ids"].shape[1] :]]
    # A turn of text alone runs as the stock model does, so its padding stays.
    masks = [m if bool(t.any()) else torch.ones_like(m) for m, t in zip(masks, turns, strict=True)]
    rows = [kv_rows(PLANS[plan], LAYERS, t, m) for t, m in zip(turns, masks, strict=True)]
    assert kv_lengths(ours.past_key_values) == held_after(tiny.model.config, *rows, 3)


@share(4)
@pytest.mark.parametrize("first", [FIRST, FIRST[:1]], ids=["ragged", "unpadded"])
@pytest.mark.parametrize(("plan", "family"), PAIRS)
@torch.no_grad()
def test_a_second_turn_by_hand_sees_every_row_it_should(plan, family, first):
    """All logits of the second turn, not the last ones alone; the cache is cropped and fed again after."""
    tiny = model(family)
    inputs = tiny.batch(first, "left", seed=4)
    said = tiny.batch([[4]] * len(first), "left", seed=8)["input_ids"]
    sequences = torch.cat([inputs["input_ids"], said], 1)
    whole = extend(inputs, sequences)
    length = inputs["input_ids"].shape[1]
    positions = (whole["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    if tiny.family == "qwen":
        positions, _ = tiny.model.model.get_rope_index(
            sequences,
            whole["mm_token_type_ids"],
            whole["image_grid_thw"],
            attention_mask=whole["attention_mask"],
        )
    theirs = recompute(tiny.model, PLANS[plan], whole, position_ids=positions).logits
    with saccade.apply(tiny.model, plan):
        cache = tiny.model(**inputs, position_ids=positions[..., :length], use_cache=True).past_key_values
        lengths, slides = kv_lengths(cache), tiny.family in ("gemma3", "paligemma", "llama4")
        # A cache that has slid is not cropped (engine/test_windows.py), and no state is.
        crops = not slides and family not in RECURRENT
        for again in range(2 if crops else 1):
            out = tiny.model(
                input_ids=said,
                attention_mask=whole["attention_mask"],
                position_ids=positions[..., length:],
                past_key_values=cache,
                use_cache=True,
            )
            assert gap(out.logits, theirs[:, length:]) < TOLERANCE, f"round {again}"
            assert slides or kv_lengths(cache) == [n + 4 if n else 0 for n in lengths]
            if not crops:
                break
            cache.crop(-4)
            assert kv_lengths(cache) == lengths and cache.get_seq_length() == length


@pytest.mark.parametrize("family", FACTORIES)
@torch.no_grad()
def test_a_new_image_by_hand_on_an_existing_cache(family):
    tiny, plan = model(family), "vskip(layers=0)+shortv(layers=1)+vtw(layer=2)"
    recipe = [("vskip", (0,)), ("shortv", (1,)), ("vtw", (2, 3))]
    inputs = tiny.batch(FIRST, "left", seed=4)
    with saccade.apply(tiny.model, plan):
        first = greedy(tiny, inputs, 2)
        cached, full = next_turn(tiny, FIRST, inputs, first.sequences, SECOND["image"])
        past = first.past_key_values.get_seq_length()
        # Positions of PaliGemma begin at 1.
        positions = (full["attention_mask"].cumsum(-1) - int(family != "paligemma")).clamp(min=0)
        if tiny.family == "qwen":
            positions, _ = tiny.model.model.get_rope_index(
                full["input_ids"],
                full["mm_token_type_ids"],
                full["image_grid_thw"],
                attention_mask=full["attention_mask"],
            )
        text = ("input_ids", "attention_mask", *(["mm_token_type_ids"] if tiny.family == "qwen" else []))
        vision = {k: v for k, v in cached.items() if k not in text}
        out = tiny.model(
            input_ids=cached["input_ids"][:, past:],
            attention_mask=cached["attention_mask"],
            position_ids=positions[..., past:],
            past_key_values=first.past_key_values,
            use_cache=True,
            **vision,
        )
    theirs = recompute(tiny.model, recipe, full, position_ids=positions).logits
    real = full["attention_mask"][:, past:]
    assert gap(out.logits, theirs[:, past:], real) < TOLERANCE
    dense = recompute(tiny.model, [], full, position_ids=positions).logits
    assert gap(out.logits, dense[:, past:], real) > 1e-2


BATCH_OPS = {
    "reorder": (lambda cache: cache.reorder_cache(torch.tensor([2, 0, 0])), [2, 0, 0]),
    "repeat": (lambda cache: cache.batch_repeat_interleave(2), [0, 0, 1, 1, 2, 2]),
    "select": (lambda cache: cache.batch_select_indices(torch.tensor([1, 2])), [1, 2]),
}


@pytest.mark.parametrize(
    ("family", "operation"),
    # Stock layers that hold a state are reordered alone.
    [
        (f, operation)
        for f in FACTORIES
        for operation in BATCH_OPS
        if f not in RECURRENT or operation == "reorder"
    ],
)
@torch.no_grad()
def test_samples_of_a_ragged_cache_move_with_their_rows(family, operation):
    """Across samples, as no beam search does: each has dropped other rows than its neighbours."""
    tiny, plan, recipe = (
        model(family),
        "shortv(layers=0)+vtw(layer=1)",
        [("shortv", (0,)), ("vtw", (1, 2, 3))],
    )
    inputs = tiny.batch(FIRST, "left", seed=4)
    said = tiny.batch([[3], [3], [3]], "left", seed=8)["input_ids"]
    whole = extend(inputs, torch.cat([inputs["input_ids"], said], 1))
    length = inputs["input_ids"].shape[1]
    positions = (whole["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    if tiny.family == "qwen":
        positions, _ = tiny.model.model.get_rope_index(
            whole["input_ids"],
            whole["mm_token_type_ids"],
            whole["image_grid_thw"],
            attention_mask=whole["attention_mask"],
        )
    theirs = recompute(tiny.model, recipe, whole, position_ids=positions).logits
    move, order = BATCH_OPS[operation]
    with saccade.apply(tiny.model, plan):
        cache = tiny.model(**inputs, position_ids=positions[..., :length], use_cache=True).past_key_values
        move(cache)
        for step in range(3):
            ours = tiny.model(
                input_ids=said[order, step : step + 1],
                attention_mask=whole["attention_mask"][order, : length + step + 1],
                position_ids=positions[..., order, length + step : length + step + 1],
                past_key_values=cache,
                use_cache=True,
            ).logits
            assert gap(ours[:, 0], theirs[order, length + step]) < TOLERANCE, f"step {step}"
