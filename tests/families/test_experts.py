"""Sparse FFNs: rows that skip are routed to no expert, and prices count what runs, however it is run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

import saccade
from engine.test_cost_counter import counted, price
from matrix.cases import TOLERANCE
from saccade.core.shapes import SHAPES
from saccade.families import FAMILIES, find
from support.models import SQUARE, WIDE, Tiny, tiny_internvl, tiny_qwen3_5_moe, tiny_qwen3_moe
from support.reference import gap, recompute

MODELS = {
    "qwen3_vl_moe": tiny_qwen3_moe,
    "qwen3_5_moe": tiny_qwen3_5_moe,
    "internvl-qwen3_moe": lambda **how: tiny_internvl("qwen3_moe", **how),
}
NAMES = tuple(MODELS)
IMPLEMENTATIONS = ("eager", "batched_mm", "grouped_mm")
SAMPLES = [[3, SQUARE, 5], [4], [2, WIDE, 1, SQUARE, 3]]


@contextmanager
def routed(tiny: Tiny) -> Iterator[list[int]]:
    """Rows that the router of each layer is given, layer after layer."""
    layers = find(tiny.model).parts(tiny.model).layers
    found: list[int] = []
    hooks = [
        layer.mlp.gate.register_forward_pre_hook(
            lambda m, args: found.append(args[0].flatten(0, -2).shape[0])
        )
        for layer in layers
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_rows_that_skip_the_ffn_are_routed_to_no_expert(name):
    tiny = MODELS[name]()
    given = tiny.batch(SAMPLES, "left", seed=1)
    every, visual = given["input_ids"].numel(), int(tiny.visual(given).sum())
    text = int(given["attention_mask"].sum()) - visual
    with saccade.apply(tiny.model, "ffn_skip(layers=1)+vtw(layer=3)"), routed(tiny) as rows:
        tiny.model(**given)
    # Padding goes with the visual rows.
    assert rows == [every, text, every, text]
    plan = saccade.apply(tiny.model, "fastv(layer=2,keep=0.5)")
    with plan as handle, handle.tracing() as traces, routed(tiny) as rows:
        tiny.model(**given)
    left = sum(map(len, traces[0].kept(2)))
    assert rows == [every, every, text + left, text + left] and left < visual


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("plan", ["dense", "ffn_skip(layers=0-2)", "vtw(layer=1)"])
@torch.no_grad()
def test_prices_count_active_experts_and_the_router_however_experts_are_run(plan, implementation):
    for name in NAMES:
        tiny = MODELS[name](layers=3)
        parts = find(tiny.model).parts(tiny.model)
        parts.decoder.set_experts_implementation(implementation)
        given = tiny.batch(SAMPLES, "left", seed=1)
        layers = parts.layers
        priced = price(tiny, given, plan)
        with saccade.apply(tiny.model, plan):
            ours = counted(layers, lambda: tiny.model(**given))  # noqa: B023 - called at once
        assert ours == pytest.approx(priced.executed_tflops * 1e12, rel=1e-9)
        recipe = {
            "dense": [],
            "ffn_skip(layers=0-2)": [("ffn_skip", (0, 1, 2))],
            "vtw(layer=1)": [("vtw", (1, 2))],
        }
        with saccade.apply(tiny.model, plan):
            logits = tiny.model(**given).logits
        assert (
            gap(logits, recompute(tiny.model, recipe[plan], given).logits, given["attention_mask"])
            < TOLERANCE
        )


@torch.no_grad()
def test_router_logits_are_refused_where_some_rows_have_none():
    tiny = tiny_qwen3_moe()
    given = tiny.batch(SAMPLES[:1])
    labels = given["input_ids"]
    dense = tiny.model(**given, labels=labels, output_router_logits=True)
    with saccade.apply(tiny.model, "vskip(layers=1)"):
        skipped = tiny.model(**given, labels=labels, output_router_logits=True)
    assert len(skipped.router_logits) == len(dense.router_logits) == 4
    assert all(logits.shape == dense.router_logits[0].shape for logits in skipped.router_logits)
    assert torch.equal(skipped.router_logits[0], dense.router_logits[0])
    assert skipped.aux_loss > 0 and not torch.equal(skipped.router_logits[3], dense.router_logits[3])
    for plan in ("ffn_skip(layers=1)", "vtw(layer=3)", "fastv(layer=1,keep=0.5)"):
        with saccade.apply(tiny.model, plan):
            with pytest.raises(ValueError, match="leave output_router_logits off"):
                tiny.model(**given, labels=labels, output_router_logits=True)
            tiny.model(**given, labels=labels)
    tiny.model.config.text_config.output_router_logits = True
    with saccade.apply(tiny.model, "ffn_skip(layers=1)"), pytest.raises(ValueError, match="router"):
        tiny.model(**given, labels=labels)
    alone = {key: x for key, x in tiny.batch([[5]]).items() if key != "mm_token_type_ids"}
    with saccade.apply(tiny.model, "ffn_skip(layers=1)"):
        tiny.model(**alone, output_router_logits=True)


def test_weights_that_are_held_are_those_of_all_experts():
    shape = SHAPES["qwen3-vl-30b-a3b"].each_layer[0]
    assert shape.ffn == 8 * 768 and shape.ffn_held == 128 * 768
    assert shape.ffn_flops == 2 * 2048 * (3 * 8 * 768 + 128)
    dense = SHAPES["qwen3-vl-8b"].each_layer[0]
    assert dense.ffn_held == dense.ffn and dense.ffn_flops == 6 * dense.hidden * dense.ffn


def test_a_decoder_with_both_kinds_of_ffn_is_priced_layer_by_layer():
    family = FAMILIES["qwen3_vl_moe"]
    config = family.config(SHAPES["qwen3-vl-30b-a3b"], layers=4)
    config.text_config.mlp_only_layers = [0, 2]
    config.text_config.intermediate_size = 1000
    plain, sparse, *rest = family.shape(config).each_layer
    assert plain.ffn_flops == 2 * 2048 * 3 * 1000 and sparse.ffn_flops == 2 * 2048 * (3 * 8 * 768 + 128)
    assert rest == [plain, sparse]
    config.text_config.mlp_only_layers = [0, 1, 2, 3]
    assert family.shape(config).experts is None and family.shape(config).ffn == 1000
