"""Attention maps against eager attention, shares of it against loops, change and VIG against other ways."""

from __future__ import annotations

import pytest
import torch

from saccade.calibration.probes import find_probe
from saccade.calibration.run import brute_force
from saccade.engine import apply
from saccade.families import find
from saccade.research.analysis.attention import attention, layer_heads, normed
from saccade.research.analysis.capture import record
from saccade.research.analysis.saturation import VisualMap, map_change, vig, visual_maps
from support.models import FACTORIES, RECURRENT, SQUARE, WIDE

PROMPT = [3, SQUARE, 2, WIDE, 5]
UNTOUCHED = "ffn_skip(layers=none)"
NORMED_AFTER = {
    "gemma3": "post_attention_layernorm",
    "paligemma": "post_attention_layernorm",
    "glm4v": "post_self_attn_layernorm",
}
"""Norms of what attention adds, where a layer has one."""


def maps_of(tiny, inputs, plan=UNTOUCHED):
    family = find(tiny.model)
    return visual_maps(family, family.parts(tiny.model).layers, record(tiny.model, inputs, plan))


@pytest.mark.parametrize("name", RECURRENT)
def test_layers_without_attention_are_named_in_one_line(name):
    tiny = FACTORIES[name]()
    with pytest.raises(ValueError, match=r"layer 3 of this (Qwen3|LFM2).* leave attention out of --what"):
        maps_of(tiny, tiny.singles([PROMPT])[0])


@pytest.fixture(scope="module", params=sorted(set(FACTORIES) - set(RECURRENT)))
def eager(request):
    """A model with eager attention, a prompt, and the maps that it returns itself."""
    tiny = FACTORIES[request.param](attn="eager")
    inputs = tiny.singles([PROMPT])[0]
    with torch.no_grad():
        return tiny, inputs, tiny.model(**inputs, output_attentions=True).attentions


def test_maps_are_those_of_eager_attention(eager):
    tiny, inputs, stock = eager
    family = find(tiny.model)
    run = record(tiny.model, inputs, UNTOUCHED)
    for number, layer in enumerate(family.parts(tiny.model).layers):
        heads, rows = layer_heads(family, layer, run, number)
        torch.testing.assert_close(heads.weights(), stock[number][0], rtol=1e-4, atol=1e-6)
        states, rotary = normed(family, layer, run, number, rows)
        added = attention(family, layer.self_attn, states, rotary, run.seen(number))
        if tiny.name in NORMED_AFTER:
            added = getattr(layer, NORMED_AFTER[tiny.name])(added)
        torch.testing.assert_close(added, run.middles[number] - run.states[number], rtol=1e-4, atol=1e-4)


def test_shares_are_those_of_a_loop_over_eager_attention(eager):
    tiny, inputs, stock = eager
    series, maps = maps_of(tiny, inputs)
    visual = tiny.visual(inputs)[0].nonzero()[:, 0].tolist()
    text = [n for n in range(min(visual), len(inputs["input_ids"][0])) if n not in visual]
    for number, one in enumerate(stock):
        mean = one[0].mean(0)

        def share(rows, mean=mean):
            return sum(float(mean[r, c]) for r in rows for c in visual) / len(rows)

        assert series["visual_to_visual"][number] == pytest.approx(share(visual), rel=1e-4)
        assert series["text_to_visual"][number] == pytest.approx(share(text), rel=1e-4)
        assert series["last_to_visual"][number] == pytest.approx(share([len(mean) - 1]), rel=1e-4)
        own = sum(float(mean[r, r]) for r in visual) / len(visual)
        assert series["visual_to_self"][number] == pytest.approx(own, rel=1e-4)
        assert maps[number].rows_V.tolist() == visual
        torch.testing.assert_close(maps[number].weights_VV, mean[visual][:, visual], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(maps[number].received_V, mean[-1, visual], rtol=1e-4, atol=1e-6)


def test_change_is_the_total_variation_of_rows_that_add_up_to_one(eager):
    tiny, inputs, stock = eager
    series, _ = maps_of(tiny, inputs)
    visual = tiny.visual(inputs)[0].nonzero()[:, 0].tolist()
    assert series["change"][0] is None
    for number in range(1, len(stock)):
        total = 0.0
        for row in visual[1:]:
            before, after = (
                [float(stock[n][0, :, row, column].mean()) for column in visual] for n in (number - 1, number)
            )
            total += sum(abs(a / sum(before) - b / sum(after)) for a, b in zip(before, after, strict=True))
        assert series["change"][number] == pytest.approx(total / 2 / (len(visual) - 1), rel=1e-3)


def made(rows, weights):
    weights = torch.tensor(weights)
    return VisualMap(torch.tensor(rows), weights, weights[-1])


def test_change_of_hand_made_maps():
    first = made([4, 5, 6], [[0.5, 0, 0], [0.1, 0.3, 0], [0.2, 0.0, 0.2]])
    assert map_change(first, first) == 0
    # How much of the attention goes elsewhere does not count, only how it is spread.
    half = made([4, 5, 6], [[0.1, 0, 0], [0.05, 0.15, 0], [0.1, 0.0, 0.1]])
    assert map_change(first, half) == pytest.approx(0, abs=1e-6)
    other = made([4, 5, 6], [[0.5, 0, 0], [0.3, 0.1, 0], [0.0, 0.7, 0.0]])
    assert map_change(first, other) == pytest.approx((0.5 + 1) / 2)
    # Only rows 4 and 6 are in both.
    fewer = made([4, 6], [[1.0, 0], [0.25, 0.75]])
    assert map_change(first, fewer) == pytest.approx(0.25)
    assert map_change(first, made([6], [[1.0]])) is None


def test_dropped_and_silent_rows_have_no_attention(llava):
    inputs = llava.singles([[3, SQUARE, 5]])[0]
    series, maps = maps_of(llava, inputs, "vtw(layer=2)")
    assert [one is None for one in maps] == [False, False, True, True]
    assert series["visual_to_visual"][2:] == [None, None] and series["last_to_visual"][2:] == [0, 0]
    series, maps = maps_of(llava, inputs, "vskip(layers=1)")
    assert maps[1] is None and series["visual_to_visual"][1] is None and series["text_to_visual"][1] > 0
    assert series["change"][1:3] == [None, None]
    plan = "random(keep=6,layer=2)"
    with apply(llava.model, plan) as handle, handle.tracing() as traces, torch.no_grad():
        llava.model(**inputs)
    series, maps = maps_of(llava, inputs, plan)
    assert [one.rows_V.tolist() for one in maps] == [traces[0].kept(n)[0] for n in range(4)]
    assert all(0 < change < 1 for change in series["change"][1:])


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ("random(keep=6,layer=2,position_policy=compact)", "position_policy=keep"),
        ("vskip(layers=1,reading=mask)", "reading=mask"),
    ],
)
def test_what_cannot_be_computed_anew_is_refused(llava, plan, words):
    with pytest.raises(ValueError, match=words):
        maps_of(llava, llava.singles([[3, SQUARE, 5]])[0], plan)


def test_vig_is_that_of_brute_force(tiny):
    inputs = tiny.singles([[3, SQUARE, 5]])[0]
    slow = brute_force(tiny.model, inputs, find_probe("vig"), "perturbed-full")
    assert vig(tiny.model, inputs) == pytest.approx(slow, abs=1e-6)


def test_vig_of_a_skipping_model_is_against_itself(llava):
    inputs = llava.singles([[3, SQUARE, 5]])[0]
    stock = vig(llava.model, inputs)
    with apply(llava.model, "skip_vision(retained=4)", resident=True):
        own = vig(llava.model, inputs)
        slow = brute_force(llava.model, inputs, find_probe("vig"), "perturbed-full")
    assert own == pytest.approx(slow) and own != pytest.approx(stock)


def test_prompts_that_cannot_be_analysed_are_refused(llava):
    with pytest.raises(ValueError, match="without padding"):
        record(llava.model, llava.batch([[3, SQUARE, 5], [4]]), UNTOUCHED)
    with pytest.raises(ValueError, match="no visual rows"):
        record(llava.model, llava.singles([[8]])[0], UNTOUCHED)


def test_recording_leaves_the_model_as_it_was(qwen):
    first, second = qwen.singles([[3, SQUARE, 5], [1, SQUARE, 3]])
    with torch.no_grad():
        before = qwen.model(**first).logits
    held = qwen.model.model.rope_deltas
    qwen.model.train()
    record(qwen.model, second, "ffn_skip(layers=0-3)")
    assert qwen.model.training and torch.equal(qwen.model.model.rope_deltas, held)
    qwen.model.eval()
    with torch.no_grad():
        assert torch.equal(qwen.model(**first).logits, before)
