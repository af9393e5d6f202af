"""The tiny models are fit to test with: they run on stock transformers, and every row matters."""

from __future__ import annotations

import pytest
import torch

from support.models import BANNER, FACTORIES, FIRST_WORD, SQUARE, TALL, WIDE
from support.turns import next_turn, stock_takes_new_images

SAMPLES = [[3, SQUARE, 5], [4], [2, WIDE, 1, TALL, 3], [BANNER, 2]]


@pytest.mark.parametrize("name", FACTORIES)
@pytest.mark.parametrize("padding", ["left", "right"])
def test_a_mixed_batch_equals_its_singles(name, padding):
    tiny = FACTORIES[name]()
    batch = tiny.batch(SAMPLES, padding=padding, seed=1)
    logits = tiny.model(**batch).logits
    for b, single in enumerate(tiny.singles(SAMPLES, seed=1)):
        real = batch["attention_mask"][b].bool()
        assert torch.equal(batch["input_ids"][b, real], single["input_ids"][0])
        torch.testing.assert_close(logits[b, real], tiny.model(**single).logits[0], atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("name", FACTORIES)
def test_generates_without_ending_early_or_writing_placeholders(name):
    tiny = FACTORIES[name]()
    batch = tiny.batch(SAMPLES)
    out = tiny.model.generate(**batch, max_new_tokens=5, do_sample=False)
    new = out[:, batch["input_ids"].shape[1] :]
    assert new.shape == (len(SAMPLES), 5) and int(new.min()) >= FIRST_WORD


@pytest.mark.parametrize("name", FACTORIES)
def test_images_and_early_text_move_the_last_logits(name):
    # Of Llama 4's layers every fourth alone sees all.
    tiny = FACTORIES[name](layers=4 if name == "llama4" else 3)
    inputs = tiny.batch([[3, SQUARE, 5]], seed=2)
    last = tiny.model(**inputs).logits[:, -1]
    moved = dict(inputs, pixel_values=inputs["pixel_values"].flip(-1) + 1)
    assert (tiny.model(**moved).logits[:, -1] - last).abs().max() > 0.05
    ids = inputs["input_ids"].clone()
    ids[0, 0] = FIRST_WORD if ids[0, 0] != FIRST_WORD else FIRST_WORD + 1
    assert (tiny.model(**dict(inputs, input_ids=ids)).logits[:, -1] - last).abs().max() > 0.01


def test_same_seed_same_model_and_inputs():
    first, second = FACTORIES["qwen2_5_vl"](seed=3), FACTORIES["qwen2_5_vl"](seed=3)
    a, b = first.batch(SAMPLES, seed=5), second.batch(SAMPLES, seed=5)
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    assert torch.equal(first.model(**a).logits, second.model(**b).logits)
    assert not torch.equal(first.batch(SAMPLES, seed=6)["input_ids"], a["input_ids"])


NEW_TEXT, NEW_IMAGES = [[2], [5]], [[2, TALL, 1], [1, SQUARE, 2]]
TURNS = [(name, NEW_TEXT) for name in FACTORIES]
# Anew, Molmo 2's first pictures would see those of the second turn.
TURNS += [(name, NEW_IMAGES) for name in FACTORIES if stock_takes_new_images(name) and name != "molmo2"]


@pytest.mark.parametrize(("name", "second"), TURNS)
def test_a_second_turn_on_the_cache_equals_full_recompute(name, second):
    tiny = FACTORIES[name]()
    first = [[3, SQUARE, 2], [2, WIDE, 4]]
    inputs = tiny.batch(first, seed=4)
    said = tiny.model.generate(**inputs, max_new_tokens=3, do_sample=False, return_dict_in_generate=True)
    cached, full = next_turn(tiny, first, inputs, said.sequences, second)
    go = dict(max_new_tokens=4, do_sample=False, output_logits=True, return_dict_in_generate=True)
    on_cache = tiny.model.generate(**cached, past_key_values=said.past_key_values, **go)
    anew = tiny.model.generate(**full, **go)
    assert torch.equal(on_cache.sequences, anew.sequences)
    for a, b in zip(on_cache.logits, anew.logits, strict=True):
        torch.testing.assert_close(a, b, atol=2e-4, rtol=1e-4)
