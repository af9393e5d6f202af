"""Sequences longer than a sliding window: what rows see, what caches hold, what decisions look at."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache

from matrix.cases import TOLERANCE, greedy
from saccade import apply
from saccade.engine import kv_lengths
from support.models import SQUARE, TALL, WIDE, Tiny, tiny_gemma3, tiny_llava, tiny_llava_next
from support.reference import gap, kv_rows, recompute, step_logits
from support.sight import held

WINDOW = 9
SAMPLES = [[3, SQUARE, 12], [2, WIDE, 3, SQUARE, 2], [4]]
PLANS = {
    "vskip(layers=1-2)": [("vskip", (1, 2))],
    "vskip(layers=0,reading=mask)+vtw(layer=2)": [("vskip_mask", (0,)), ("vtw", (2, 3))],
}


@pytest.fixture(scope="module")
def sliding() -> Tiny:
    """LLaVA-NeXT on a Mistral decoder whose window is shorter than an image."""
    tiny = tiny_llava_next("mistral")
    tiny.model.config.text_config.sliding_window = WINDOW
    return tiny


@pytest.mark.parametrize("plan", PLANS)
def test_generation_past_the_window_is_recomputation(sliding, plan):
    given = sliding.batch(SAMPLES, "left", seed=2)
    with apply(sliding.model, plan):
        said = greedy(sliding, given, 5)
    theirs = step_logits(sliding.model, PLANS[plan], given, said.sequences)
    for step, ours in enumerate(said.logits):
        assert gap(ours, theirs[:, step]) < TOLERANCE, f"step {step}"
    rows = kv_rows(PLANS[plan], 4, sliding.visual(given), given["attention_mask"], 4)
    assert kv_lengths(said.past_key_values) == held(sliding.model.config, rows)


@torch.no_grad()
def test_a_window_hides_rows(sliding):
    """Or the tests here would show nothing."""
    (given,) = sliding.singles(SAMPLES[:1], seed=2)
    narrow = recompute(sliding.model, PLANS["vskip(layers=1-2)"], given).logits
    sliding.model.config.text_config.sliding_window = None
    wide = recompute(sliding.model, PLANS["vskip(layers=1-2)"], given).logits
    sliding.model.config.text_config.sliding_window = WINDOW
    assert gap(narrow, wide) > 1e-2


@torch.no_grad()
@pytest.mark.parametrize("make", [tiny_llava, tiny_gemma3])
def test_a_new_image_on_a_cache_that_has_slid_is_decided_about_as_in_one_prompt(make):
    """What decisions look at in a layer is what its rows saw, though its cache has let go of some."""
    tiny = make("mistral") if make is tiny_llava else make()
    tiny.model.config.text_config.sliding_window = WINDOW
    (whole,) = tiny.singles([[15, SQUARE, 4]], seed=3)
    for plan in ("fastv(layer=1,keep=0.5)", "pyramiddrop(layers=1/3,keep=0.5)"):
        with apply(tiny.model, plan) as handle:
            with handle.tracing() as traces:
                alone = tiny.model(**whole, use_cache=False).logits
            with handle.tracing() as later:
                text = {k: v[:, :15] for k, v in whole.items() if k in ("input_ids", "attention_mask")}
                cache = tiny.model(**text, use_cache=True).past_key_values
                rest = {k: v for k, v in whole.items() if k != "input_ids"}
                ours = tiny.model(input_ids=whole["input_ids"][:, 15:], past_key_values=cache, **rest).logits
        assert [n + 15 for n in later[0].kept(3)[0]] == traces[0].kept(3)[0], plan
        left = torch.ones(20 + 15, dtype=torch.bool)
        left[15:31] = False
        left[traces[0].kept(3)[0]] = True
        assert gap(ours[:, left[15:]], alone[:, 15:][:, left[15:]]) < TOLERANCE, plan
        # And once it was looked at, it slides as any other.
        assert kv_lengths(cache)[0] == WINDOW - 1


@torch.no_grad()
def test_a_cache_that_slid_is_cropped_only_where_it_kept_what_slid_away(sliding):
    given = sliding.singles(SAMPLES[:1], seed=2)[0]
    more = torch.full((1, 3), 9)
    with apply(sliding.model, "vtw(layer=1)"):
        whole = sliding.model(**given, use_cache=True).past_key_values
        with pytest.raises(ValueError, match="let go of what a window of 9 rows"):
            whole.layers[1].crop(-1)
        cache = DynamicCache(config=sliding.model.config)
        sliding.model(**given, past_key_values=cache)
        cache.activate_past_recording()
        first = sliding.model(input_ids=more, past_key_values=cache).logits
        cache.crop(-3)
        assert kv_lengths(cache) == held(sliding.model.config, [[40]] * 4)
        assert gap(sliding.model(input_ids=more, past_key_values=cache).logits, first) < TOLERANCE


@torch.no_grad()
def test_no_mask_of_all_rows_is_made(sliding, monkeypatch):
    """Each text run, each image: a window's worth of keys, not the whole prompt."""
    from torch.nn import functional

    from saccade.core import calls as module

    tiny, sizes, stock = tiny_gemma3(), [], functional.scaled_dot_product_attention

    def watched(q, k, v, attn_mask=None, **how):
        sizes.append((q.shape[2], k.shape[2], attn_mask is not None))
        return stock(q, k, v, attn_mask=attn_mask, **how)

    given = tiny.singles([[30, SQUARE, 30, SQUARE, 30]], seed=1)[0]
    monkeypatch.setattr(module, "CHUNK", 12)
    with apply(tiny.model, "divprune(keep=12)"):
        monkeypatch.setattr(functional, "scaled_dot_product_attention", watched)
        tiny.model(**given)
    rows = 90 + 2 * 12
    # Of four layers one sees everything, and only its text runs that follow an image take a mask.
    assert max(q * k for q, k, masked in sizes if masked) <= 30 * rows
    assert sum(q * k for q, k, masked in sizes if masked and k <= 12 + 30) > 0
    assert not any(q == k == rows for q, k, _ in sizes if q > 16)


@torch.no_grad()
def test_windows_go_by_positions_that_closed_up():
    """As in a prompt that really is shorter."""
    from support.shortened import shortened

    tiny = tiny_llava("mistral")
    tiny.model.config.text_config.sliding_window = WINDOW
    (given,) = tiny.singles([[3, SQUARE, 2, TALL, 5]], seed=4)
    for spec in (
        "divprune(keep=0.5,position_policy=compact)",
        "fastv(layer=2,keep=0.5,position_policy=compact)",
    ):
        theirs, rows = shortened(tiny, spec, given)
        with apply(tiny.model, spec):
            ours = tiny.model(**given).logits[0]
        assert gap(ours[rows][None], theirs[None]) < TOLERANCE
        kept = spec.replace("compact", "keep")
        with apply(tiny.model, kept):
            assert gap(tiny.model(**given).logits[0][rows][None], theirs[None]) > 1e-2
