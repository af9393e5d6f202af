"""A layout given once serves a whole generation from merged embeddings.

Shape letters: B batch, N rows, D hidden.
"""

from __future__ import annotations

import pytest
import torch

from saccade import apply
from saccade.core.layout import Layout
from saccade.engine import kv_lengths
from support.models import FACTORIES, SQUARE, WIDE, tiny_llava
from support.reference import gap
from support.shortened import entering

SAMPLES = [[3, SQUARE, 5], [6], [2, SQUARE, 1, WIDE, 2], [1, SQUARE]]
FAMILIES = (
    "llava-llama",
    "llava_next-mistral",
    "qwen2_5_vl",
    "qwen2_vl",
    "llava_onevision",
    "internvl-qwen3",
)
SPECS = (
    "vskip(layers=1-2)",
    "vtw(layer=1)",
    "divprune(keep=0.5,position_policy=compact)",
    "fastv(layer=1,keep=0.5)",
    "skip_vision(retained=0.25,split=grid,cache=small)",
)
GO = dict(do_sample=False, max_new_tokens=4)


@torch.no_grad()
def merged(tiny, inputs) -> dict[str, torch.Tensor]:
    """The same prompts as merged embeddings, with the stock positions where they have several axes."""
    with entering(tiny) as entered:
        tiny.model(**inputs)
    given = {"inputs_embeds": entered.kwargs["inputs_embeds"], "attention_mask": inputs["attention_mask"]}
    positions = entered.kwargs.get("position_ids")
    return given | ({"position_ids": positions} if tiny.family == "qwen" else {})


def spec_for(tiny, spec: str) -> str:
    return spec.replace(",position_policy=compact", "") if tiny.family == "qwen" else spec


def layout_of(tiny, inputs) -> Layout:
    return Layout.from_mask(tiny.visual(inputs), inputs["attention_mask"])


@pytest.mark.share(3)
@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("name", FAMILIES)
def test_generation_from_merged_embeddings_says_what_token_ids_say(name, spec):
    tiny = FACTORIES[name](layers=3)
    spec, inputs = spec_for(tiny, spec), tiny.batch(SAMPLES)
    given, rows = merged(tiny, inputs), inputs["input_ids"].shape[1]
    draw = GO | {"do_sample": True, "temperature": 0.7}
    beams = GO | {"num_beams": 3, "num_return_sequences": 2}
    with apply(tiny.model, spec) as handle:
        for way in (GO, beams, draw, draw | {"num_return_sequences": 2}):
            torch.manual_seed(3)
            said = tiny.model.generate(**inputs, **way)[:, rows:]
            torch.manual_seed(3)
            with handle.with_layout(layout_of(tiny, inputs)):
                again = tiny.model.generate(**given, **way)
            assert torch.equal(again, said), way


@pytest.mark.parametrize("spec", SPECS)
def test_logits_and_caches_are_the_same_too(spec):
    tiny = tiny_llava()
    inputs = tiny.batch(SAMPLES)
    keep = dict(output_logits=True, return_dict_in_generate=True)
    given = merged(tiny, inputs)
    with apply(tiny.model, spec) as handle:
        want = tiny.model.generate(**inputs, **GO, **keep)
        with handle.with_layout(layout_of(tiny, inputs)):
            got = tiny.model.generate(**given, **GO, **keep)
            # Embeddings are run once, so that transformers keeps a cache whatever it is told.
            assert torch.equal(
                tiny.model.generate(**given, **GO, use_cache=False),
                got.sequences,
            )
    assert kv_lengths(got.past_key_values) == kv_lengths(want.past_key_values)
    for ours, theirs in zip(got.logits, want.logits, strict=True):
        assert gap(ours, theirs) < 1e-5


def test_positions_of_several_axes_that_nobody_gives_are_the_stock_models_own():
    tiny = FACTORIES["qwen2_5_vl"](layers=3)
    inputs = tiny.batch(SAMPLES[:1])
    given = {k: v for k, v in merged(tiny, inputs).items() if k != "position_ids"}
    tiny.model.model.rope_deltas = None
    stock = tiny.model.generate(**given, **GO)
    tiny.model.model.rope_deltas = None
    with apply(tiny.model, "vskip(layers=none)") as handle, handle.with_layout(layout_of(tiny, inputs)):
        assert torch.equal(tiny.model.generate(**given, **GO), stock)


@pytest.mark.parametrize("spec", SPECS[:4])
@torch.no_grad()
def test_a_later_turn_is_the_end_of_its_layout(spec):
    """``generate`` is given the embeddings of the whole conversation, and runs those that are new."""
    tiny = tiny_llava()
    first, whole = tiny.batch([[3, SQUARE, 4]]), tiny.batch([[3, SQUARE, 4, 2, SQUARE, 3]])
    rows = first["input_ids"].shape[1]
    given, layout = merged(tiny, whole), layout_of(tiny, whole)
    embeds = given["inputs_embeds"]
    with apply(tiny.model, spec) as handle:
        with handle.with_layout(Layout.from_mask(layout.visual_BN[:, :rows])):
            cache = tiny.model(inputs_embeds=embeds[:, :rows], use_cache=True).past_key_values
        with handle.with_layout(Layout.from_mask(layout.visual_BN[:, rows:])):
            want = tiny.model(inputs_embeds=embeds[:, rows:], past_key_values=cache).logits[:, -1]
        with handle.with_layout(Layout.from_mask(layout.visual_BN[:, :rows])):
            cache = tiny.model(inputs_embeds=embeds[:, :rows], use_cache=True).past_key_values
        with handle.with_layout(layout):
            more = dict(output_logits=True, return_dict_in_generate=True)
            got = tiny.model.generate(**given, **GO, **more, past_key_values=cache)
    assert gap(got.logits[0], want) < 1e-6


@pytest.mark.parametrize("spec", ["fastervlm(keep=0.5)", "tome(r=2)", "pool(factor=2)", "prumerge()"])
def test_what_asks_for_pictures_says_that_embeddings_have_none(spec):
    tiny = tiny_llava()
    inputs = tiny.batch(SAMPLES[:1])
    given = merged(tiny, inputs)
    with (
        apply(tiny.model, spec) as handle,
        handle.with_layout(layout_of(tiny, inputs)),
        pytest.raises(ValueError, match="given as embeddings") as said,
    ):
        tiny.model.generate(**given, **GO)
    assert "\n" not in str(said.value)
