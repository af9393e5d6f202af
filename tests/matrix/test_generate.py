"""Cached generation under a plan equals full recompute, step by step, on caches of the right length."""

from __future__ import annotations

import pytest
import torch

import saccade
from matrix.cases import (
    ATTENTIONS,
    LAYERS,
    PLANS,
    SCENES,
    TEXT,
    TOLERANCE,
    crossed,
    greedy,
    inputs,
    model,
    scenes_of,
    share,
)
from saccade.engine import kv_lengths
from support.models import FACTORIES, FIRST_WORD, SQUARE, TALL, WIDE
from support.reference import extend, gap, kv_rows, masked, recompute, step_logits
from support.sight import held
from support.turns import BEAMS, RECOMPUTED

LEFT = ["single-1", "ragged-1-left", "single-2", "ragged-2-left"]
STEPS = 8


def longest(plan: str, tiny, given, new: int) -> list[int]:
    rows = kv_rows(PLANS[plan], LAYERS, tiny.visual(given), given["attention_mask"], new)
    return held(tiny.model.config, rows)


@share(12)
@pytest.mark.parametrize("attn", ATTENTIONS)
@pytest.mark.parametrize(("plan", "family", "scene"), scenes_of(PLANS, LEFT))
def test_eight_greedy_steps_equal_full_recompute(plan, family, attn, scene):
    tiny, given = model(family, attn), inputs(family, scene)
    with saccade.apply(tiny.model, plan):
        said = greedy(tiny, given, STEPS)
    theirs = step_logits(tiny.model, PLANS[plan], given, said.sequences)
    for step, ours in enumerate(said.logits):
        assert gap(ours, theirs[:, step]) < TOLERANCE, f"step {step}"
    theirs[..., :FIRST_WORD] = -torch.inf
    assert torch.equal(said.sequences[:, -STEPS:], theirs.argmax(-1))
    assert kv_lengths(said.past_key_values) == longest(plan, tiny, given, STEPS - 1)


def feed(tiny, given, ids, position_ids, cache):
    """One step on a cache, as a person would write it."""
    return tiny.model(
        input_ids=ids[:, -1:],
        attention_mask=extend(given, ids)["attention_mask"],
        position_ids=position_ids,
        past_key_values=cache,
        use_cache=True,
    )


@share(4)
@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize(("plan", "family"), crossed(PLANS))
@torch.no_grad()
def test_a_loop_written_by_hand_keeps_positions_and_lengths(plan, family, padding):
    """Right padding leaves holes in the cached sequence: padding between the prompt and the new rows."""
    tiny = model(family)
    given = tiny.batch([[3, SQUARE, 5], [4], [2, WIDE, 1, TALL, 3]], padding, seed=5)
    ids = given["input_ids"]
    draw = torch.Generator().manual_seed(0)
    new = torch.randint(FIRST_WORD, 100, (3, 4), generator=draw)
    whole = extend(given, torch.cat([ids, new], 1))
    positions = (whole["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    if tiny.family == "qwen":
        positions, _ = tiny.model.model.get_rope_index(
            whole["input_ids"],
            whole["mm_token_type_ids"],
            whole["image_grid_thw"],
            attention_mask=whole["attention_mask"],
        )
    theirs = recompute(tiny.model, PLANS[plan], whole, position_ids=positions).logits
    with saccade.apply(tiny.model, plan):
        out = tiny.model(**given, position_ids=positions[..., : ids.shape[1]], use_cache=True)
        assert gap(out.logits, theirs[:, : ids.shape[1]], given["attention_mask"]) < TOLERANCE
        for step in range(1, new.shape[1] + 1):
            ids = whole["input_ids"][:, : given["input_ids"].shape[1] + step]
            cache = out.past_key_values
            out = feed(tiny, given, ids, positions[..., ids.shape[1] - 1 : ids.shape[1]], cache)
            assert gap(out.logits[:, 0], theirs[:, ids.shape[1] - 1]) < TOLERANCE, f"step {step}"
            assert kv_lengths(cache) == longest(plan, tiny, given, step)
            assert cache.get_seq_length() == ids.shape[1]


@pytest.mark.parametrize("family", FACTORIES)
@pytest.mark.parametrize("plan", ["dense", "vskip(layers=none)"])
def test_full_row_sets_generate_the_same_bits(plan, family):
    tiny, given = model(family), inputs(family, "ragged-2-left")
    dense = greedy(tiny, given, 5)
    with saccade.apply(tiny.model, plan):
        ours = greedy(tiny, given, 5)
    assert torch.equal(ours.sequences, dense.sequences)
    assert all(torch.equal(a, b) for a, b in zip(ours.logits, dense.logits, strict=True))


@pytest.mark.parametrize("plan", PLANS)
def test_text_alone_generates_the_same_bits(plan):
    for family in ("llava-llama", "qwen2_5_vl"):
        tiny = model(family)
        given = tiny.batch(*TEXT["text-left"])
        dense = greedy(tiny, given, 4)
        with saccade.apply(tiny.model, plan):
            ours = greedy(tiny, given, 4)
        assert all(torch.equal(a, b) for a, b in zip(ours.logits, dense.logits, strict=True))


@pytest.mark.parametrize("family", FACTORIES)
@pytest.mark.parametrize("plan", ["vtw(layer=1)", "shortv(layers=0-2)", "vskip(layers=1)+vtw(layer=2)"])
def test_a_batch_generates_what_its_singles_do(plan, family):
    tiny = model(family)
    samples = SCENES["ragged-2-left"][0]
    batch, singles = tiny.batch(samples, "left", seed=6), tiny.singles(samples, seed=6)
    with saccade.apply(tiny.model, plan):
        together = greedy(tiny, batch, 4)
        for b, single in enumerate(singles):
            alone = greedy(tiny, single, 4)
            assert torch.equal(together.sequences[b, -4:], alone.sequences[0, -4:])
            for x, y in zip(together.logits, alone.logits, strict=True):
                assert gap(x[b], y[0]) < TOLERANCE


@pytest.mark.parametrize("family", BEAMS)
@pytest.mark.parametrize(
    ("plan", "recipe"),
    [
        ("vtw(layer=1)", [("vtw", (1, 2, 3))]),
        ("shortv(layers=1)+vtw(layer=3)", [("shortv", (1,)), ("vtw", (3,))]),
    ],
)
def test_beam_search_equals_beam_search_by_full_recompute(plan, recipe, family):
    tiny, given = model(family), inputs(family, "ragged-2-left")
    go = dict(
        max_new_tokens=5, num_beams=3, do_sample=False, output_scores=True, return_dict_in_generate=True
    )
    with saccade.apply(tiny.model, plan):
        ours = tiny.model.generate(**given, **go)
    with masked(tiny.model, recipe):
        theirs = tiny.model.generate(**given, use_cache=False, **go)
    assert torch.equal(ours.sequences, theirs.sequences)
    assert torch.equal(ours.beam_indices, theirs.beam_indices)
    torch.testing.assert_close(ours.sequences_scores, theirs.sequences_scores, atol=1e-4, rtol=1e-5)
    assert not torch.equal(ours.sequences, tiny.model.generate(**given, **go).sequences), (
        "no power: same as dense"
    )


@pytest.mark.parametrize("family", RECOMPUTED)
def test_seeded_sampling_equals_sampling_by_full_recompute(family):
    tiny, given = model(family), inputs(family, "ragged-1-left")
    go = dict(max_new_tokens=6, do_sample=True, temperature=1.5, top_k=20, num_return_sequences=2)
    with saccade.apply(tiny.model, "vskip(layers=1)+vtw(layer=2)"):
        torch.manual_seed(3)
        ours = tiny.model.generate(**given, **go)
        torch.manual_seed(3)
        uncached = tiny.model.generate(**given, use_cache=False, **go)
    with masked(tiny.model, PLANS["vskip(layers=1)+vtw(layer=2)"]):
        torch.manual_seed(3)
        theirs = tiny.model.generate(**given, use_cache=False, **go)
    assert torch.equal(ours, theirs) and torch.equal(uncached, theirs)
