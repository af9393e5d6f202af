"""The ragged cache: rows, padding and lengths stay in step under everything that stock code does to a cache.

Shape letters: B batch, K cached rows.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache, StaticCache
from transformers.cache_utils import Cache, DynamicLayer

from saccade.core.layout import Layout
from saccade.engine import KeyRows, RaggedLayer, apply, kv_bytes, kv_lengths
from support.models import FACTORIES, FIRST_WORD, SQUARE, VOCAB

SAMPLES = [[3, SQUARE, 5], [6], [2, SQUARE, 1, SQUARE, 2]]
SPECS = ("vskip(layers=1-3)", "shortv(layers=1-2)", "vtw(layer=2)")


def words(batch: int, count: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(FIRST_WORD, VOCAB, (batch, count), generator=torch.Generator().manual_seed(seed))


def follow(model, inputs, cache, ids) -> torch.Tensor:
    """Logits of new text on a cache; the mask of the full sequence is the first turn's and ones."""
    past = cache.get_seq_length()
    mask = torch.nn.functional.pad(inputs["attention_mask"][:, :past], (0, past + ids.shape[1]), value=1)
    mask = mask[:, : past + ids.shape[1]]
    return model(input_ids=ids, attention_mask=mask, past_key_values=cache).logits


@pytest.mark.parametrize("spec", SPECS)
def test_every_way_to_get_a_cache_gives_the_same(llava, spec):
    inputs, more = llava.batch(SAMPLES), words(3, 2)
    real = ~llava.visual(inputs) & inputs["attention_mask"].bool()
    rows, text = inputs["input_ids"].shape[1], int(real.sum(1).max())
    with torch.no_grad(), apply(llava.model, spec):
        results = []
        for cache in (None, DynamicCache(), DynamicCache(config=llava.model.config)):
            out = llava.model(**inputs, past_key_values=cache)
            assert cache is None or out.past_key_values is cache
            results.append((out.logits, follow(llava.model, inputs, out.past_key_values, more)))
            held = kv_lengths(out.past_key_values)
            dropped = text + 2 if spec.startswith("vtw") else rows + 2
            assert held == [rows + 2, rows + 2, dropped, dropped]
            assert out.past_key_values.get_seq_length(3) == rows + 2
        uncached = llava.model(**inputs, use_cache=False)
    assert uncached.past_key_values is None
    for first, second in results:
        torch.testing.assert_close(first, uncached.logits, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(second, results[0][1], atol=1e-5, rtol=1e-5)


def test_bytes_are_those_of_the_rows_held(llava):
    inputs = llava.batch([SAMPLES[0]])
    with torch.no_grad():
        dense = llava.model(**inputs).past_key_values
        with apply(llava.model, "vtw(layer=1)"):
            cache = llava.model(**inputs).past_key_values
    assert kv_lengths(dense) == [24] * 4 and kv_lengths(cache) == [24, 8, 8, 8]
    assert kv_bytes(dense) == 4 * 24 * 2 * 64 * 4 and kv_bytes(cache) == (24 + 3 * 8) * 2 * 64 * 4
    assert kv_lengths(DynamicCache(config=llava.model.config)) == [0] * 4


@pytest.mark.parametrize("padded", [True, False], ids=["padded", "unpadded"])
def test_a_cache_that_dropped_rows_is_not_continued_without_its_plan(llava, padded):
    inputs = llava.batch([SAMPLES[0], SAMPLES[1]] if padded else [SAMPLES[0]])
    more = words(len(inputs["input_ids"]), 1)
    with torch.no_grad():
        with apply(llava.model, "vtw(layer=2)"):
            cache = llava.model(**inputs).past_key_values
            keep = follow(llava.model, inputs, cache, more)
            cache.crop(-1)
        with pytest.raises(ValueError, match="apply that plan to continue it"):
            follow(llava.model, inputs, cache, more)
        cache.layers[0].crop(-1), cache.layers[1].crop(-1)
        with apply(llava.model, "vtw(layer=2)"):
            torch.testing.assert_close(follow(llava.model, inputs, cache, more), keep)


def test_a_cache_that_kept_all_rows_is_free_of_its_plan(llava):
    inputs, more = llava.batch(SAMPLES), words(3, 2)
    with torch.no_grad():
        with apply(llava.model, "vskip(layers=1-3)"):
            cache = llava.model(**inputs).past_key_values
        assert not any(isinstance(layer, RaggedLayer) for layer in cache.layers)
        assert torch.isfinite(follow(llava.model, inputs, cache, more)).all()


def test_another_plan_may_continue_a_cache(llava):
    inputs, more = llava.batch(SAMPLES), words(3, 2)
    with torch.no_grad():
        with apply(llava.model, "vtw(layer=2)"):
            cache = llava.model(**inputs).past_key_values
            want = follow(llava.model, inputs, cache, more)
            cache.crop(-2)
        with apply(llava.model, "shortv(layers=0)"):
            torch.testing.assert_close(follow(llava.model, inputs, cache, more), want)


@pytest.mark.parametrize("name", FACTORIES)
def test_reset_empties_a_cache_for_a_new_conversation(name):
    tiny = FACTORIES[name]()
    first, second = tiny.batch(SAMPLES), tiny.batch([[2, SQUARE, 3]], seed=1)
    with torch.no_grad(), apply(tiny.model, "vtw(layer=1)"):
        cache = tiny.model(**first).past_key_values
        cache.reset()
        assert cache.get_seq_length() == 0 and kv_lengths(cache) == [0] * 4 and kv_bytes(cache) == 0
        want = tiny.model(**second).logits
        torch.testing.assert_close(tiny.model(**second, past_key_values=cache).logits, want)


@pytest.mark.parametrize("spec", ["vtw(layer=2)", "shortv(layers=0)+vtw(layer=1)"])
@pytest.mark.parametrize("removed", [2, 8, 20], ids=["text", "into the image", "before the image"])
def test_a_cropped_cache_goes_on_like_a_shorter_prompt(llava, spec, removed):
    inputs = llava.batch([[3, SQUARE, 5], [4, SQUARE, 4]])
    more = words(2, 3)
    with torch.no_grad(), apply(llava.model, spec):
        cache = llava.model(**inputs).past_key_values
        cache.crop(-removed)
        left = 24 - removed
        assert [cache.get_seq_length(n) for n in range(4)] == [left] * 4
        kept = ~llava.visual(inputs)[:, :left]
        assert kv_lengths(cache)[-1] == int(kept.any(0).sum() if removed == 20 else kept.sum(1).max())
        got = follow(llava.model, inputs, cache, more)
        # A prompt that ends inside its image: the same rows, given as merged embeddings with their layout.
        embeds = merged(llava.model, inputs)[:, :left]
        embeds = torch.cat([embeds, llava.model.get_input_embeddings()(more)], dim=1)
        layout = Layout.from_mask(torch.nn.functional.pad(llava.visual(inputs)[:, :left], (0, 3)))
    with torch.no_grad(), apply(llava.model, spec) as attachment, attachment.with_layout(layout):
        want = llava.model(inputs_embeds=embeds).logits
    torch.testing.assert_close(got, want[:, left:], atol=2e-5, rtol=1e-4)


def merged(model, inputs) -> torch.Tensor:
    """Embeddings of a prompt, images filled in."""
    seen = {}
    hook = model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.update(kwargs), with_kwargs=True
    )
    model(**inputs)
    hook.remove()
    return seen["inputs_embeds"]


@pytest.mark.parametrize("after", ["vtw(layer=2)", "vskip(layers=1)", "fastv(layer=1,keep=0.5)"])
@torch.no_grad()
def test_a_cache_that_closed_up_goes_on_under_another_plan(llava, after):
    """Tokens stand where the closed-up prompt ends, whichever plan reads them."""
    inputs = llava.batch([[3, SQUARE, 5]])
    more = words(1, 2)
    closed = "fastv(layer=1,keep=0.5,position_policy=compact)"
    with apply(llava.model, closed):
        caches = [llava.model(**inputs).past_key_values for _ in range(2)]
        want = llava.model(input_ids=more, past_key_values=caches[0]).logits
    with apply(llava.model, after):
        got = llava.model(input_ids=more, past_key_values=caches[1]).logits
    torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_pixels_without_a_prompt_are_left_to_the_stock_model(llava):
    pixels = llava.batch([[3, SQUARE, 5]])["pixel_values"]
    with apply(llava.model, "vtw(layer=2)"), pytest.raises(ValueError, match="exactly one of input_ids"):
        llava.model(pixel_values=pixels)


def test_selecting_repeating_and_reordering_samples(llava):
    inputs, more = llava.batch(SAMPLES), words(3, 2, seed=4)
    changes = {
        "reorder": (lambda c: c.reorder_cache(torch.tensor([2, 0, 0])), [2, 0, 0]),
        "select": (lambda c: c.batch_select_indices(torch.tensor([2, 1])), [2, 1]),
        "mask": (lambda c: c.batch_select_indices(torch.tensor([True, False, True])), [0, 2]),
        "repeat": (lambda c: c.batch_repeat_interleave(2), [0, 0, 1, 1, 2, 2]),
    }
    with torch.no_grad(), apply(llava.model, "vtw(layer=1)"):
        cache = llava.model(**inputs).past_key_values
        want = follow(llava.model, inputs, cache, more)
        for name, (change, order) in changes.items():
            cache = llava.model(**inputs).past_key_values
            change(cache)
            assert len({id(layer.rows) for layer in cache.layers[1:]}) == 1, name
            left = {"attention_mask": inputs["attention_mask"][order]}
            got = follow(llava.model, left, cache, more[order])
            torch.testing.assert_close(got, want[order], atol=1e-5, rtol=1e-5, msg=name)


class PlainRows:
    """One sample's cache as a list of (row, value) pairs."""

    def __init__(self) -> None:
        self.logical, self.held = 0, []


@settings(max_examples=40)
@given(data=st.data())
def test_rows_and_values_stay_in_step(data):
    """Any sequence of operations, against one plain list per sample; the value of a row is its identity."""
    batch = data.draw(st.integers(1, 3), label="batch")
    layers = [RaggedLayer(), RaggedLayer()]
    plain = [PlainRows() for _ in range(batch)]
    stamp = 0
    for _ in range(data.draw(st.integers(1, 7), label="steps")):
        kind = data.draw(
            st.sampled_from(["append", "append", "crop", "reorder", "select", "repeat", "reset"])
        )
        if kind == "append":
            new = data.draw(st.integers(1, 4))
            alive = [[data.draw(st.booleans()) or i == new - 1 for i in range(new)] for _ in plain]
            width = max(map(sum, alive))
            ids, values = torch.full((len(plain), width), -1), torch.full((len(plain), 1, width, 1), -1.0)
            for b, (sample, keeps) in enumerate(zip(plain, alive, strict=True)):
                rows = [sample.logical + i for i, keep in enumerate(keeps) if keep]
                for column, row in enumerate(rows):
                    ids[b, column], values[b, 0, column, 0] = row, stamp
                    sample.held.append((row, float(stamp)))
                    stamp += 1
                sample.logical += new
            held = layers[0].rows
            if held is not None:
                ids = torch.cat([held.ids_BK.expand(len(plain), -1), ids], dim=1)
            rows = KeyRows(ids, False, int((ids < 0).sum(1).max()) if ids.numel() else 0)
            for layer in layers:
                layer.expect(rows, plain[0].logical)
                layer.update(values, values + 0.5)
        elif kind == "reset":
            plain = [PlainRows() for _ in range(data.draw(st.integers(1, 3)))]
            for layer in layers:
                layer.reset()
        elif not layers[0].is_initialized:
            continue
        elif kind == "crop":
            count = data.draw(st.integers(0, plain[0].logical + 1))
            for layer in layers:
                layer.crop(-count)
            for sample in plain:
                sample.logical = max(sample.logical - count, 0)
                sample.held = [(row, value) for row, value in sample.held if row < sample.logical]
        else:
            if kind == "repeat":
                order = [i for i in range(len(plain)) for _ in range(2)]
                if len(order) > 8:
                    continue
                for layer in layers:
                    layer.batch_repeat_interleave(2)
            else:
                order = data.draw(st.lists(st.integers(0, len(plain) - 1), min_size=1, max_size=4))
                index = torch.tensor(order)
                for layer in layers:
                    (layer.reorder_cache if kind == "reorder" else layer.batch_select_indices)(index)
            copies = [PlainRows() for _ in order]
            for copy, source in zip(copies, order, strict=True):
                copy.logical, copy.held = plain[source].logical, list(plain[source].held)
            plain = copies
        for layer in layers:
            assert layer.get_seq_length() == plain[0].logical
            if layer.rows is None:
                assert not any(sample.held for sample in plain)
                continue
            assert layer.rows is layers[0].rows
            for b, sample in enumerate(plain):
                ids = layer.rows.ids_BK.expand(len(plain), -1)[b].tolist()
                found = [(i, v) for i, v in zip(ids, layer.keys[b, 0, :, 0].tolist(), strict=True) if i >= 0]
                assert found == sample.held
                assert torch.equal(layer.values[b], layer.keys[b] + 0.5)
            if layer.rows.gapless:
                assert bool((layer.rows.ids_BK >= 0).all())


class Squeezed(DynamicLayer):
    """Stands for a quantised cache layer: of a dynamic kind, but not one that can drop rows."""


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("kind", ["static", "quantised", "generate"])
def test_caches_that_cannot_drop_rows_are_refused_before_anything_runs(llava, spec, kind):
    inputs = llava.batch([SAMPLES[0]])
    with apply(llava.model, spec), pytest.raises(ValueError, match="need a dynamic KV cache"):
        if kind == "generate":
            llava.model.generate(**inputs, max_new_tokens=2, cache_implementation="static")
        elif kind == "static":
            llava.model(**inputs, past_key_values=StaticCache(config=llava.model.config, max_cache_len=64))
        else:
            llava.model(**inputs, past_key_values=Cache(layers=[Squeezed() for _ in range(4)]))


def test_text_alone_may_use_any_cache(llava):
    inputs = llava.batch([[6]])
    go = dict(max_new_tokens=3, do_sample=False, cache_implementation="static", disable_compile=True)
    want = llava.model.generate(**inputs, **go)
    with apply(llava.model, "vtw(layer=1)"):
        assert torch.equal(llava.model.generate(**inputs, **go), want)
