"""A bench compares like with like, reads sizes off the real run, and says when a plan is slower."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from saccade.core.pricing import cost
from saccade.core.shapes import SHAPES, ModelShape
from saccade.core.tower import TowerShape
from saccade.engine import apply, attached, kv_lengths
from saccade.measure import bench, target
from saccade.measure.bench import batched
from saccade.measure.counter import dispatched_flops
from saccade.measure.results import Phase
from saccade.measure.runs import Runner
from saccade.plans.plan import Plan

FAST = {"text": 12, "new_tokens": 3, "repeats": 2, "warmup": 0}


@pytest.mark.share(4)
@pytest.mark.parametrize(
    "plan",
    [
        "dense",
        "vskip(layers=1-2)",
        "ffn_skip(layers=0)",
        "shortv(layers=0-2)",
        "vtw(layer=1)",
        "random(keep=0.5)",
        "fastv(layer=1,keep=0.25)",
        "pyramiddrop(layers=1/2)",
        "resize(scale=0.5)+fastv(layer=2,keep=2)",
        "skip_vision(retained=4,cache=small)",
    ],
)
def test_the_flops_of_both_phases_are_those_the_run_dispatches(each_toy, plan):
    batch, new = 2, 3
    if each_toy.shape.recurrent and plan in (
        "fastv(layer=1,keep=0.25)",
        "skip_vision(retained=4,cache=small)",
    ):
        with pytest.raises(ValueError, match=r"layer 0.* is recurrent"):
            bench(each_toy, plan, batch=batch, **FAST)
        return
    found = bench(each_toy, plan, batch=batch, **FAST)
    layout = batched(each_toy.shape.visual, FAST["text"], batch)
    runner = Runner(each_toy, layout, new, plan=Plan.of(plan))
    head = 2 * batch * each_toy.shape.hidden * each_toy.shape.vocab
    with apply(each_toy.model, plan) as handle:
        token, cache = runner.prefill(handle)
        prefill = dispatched_flops(lambda: runner.prefill(handle)) - head
        steps = (
            dispatched_flops(lambda: [runner.step(token, cache) for _ in range(new - 1)]) / (new - 1) - head
        )
    assert found.prefill.plan_gflops_per_s * found.prefill.plan_s * 1e9 == pytest.approx(prefill, rel=0.005)
    assert found.decode.plan_gflops_per_s * found.decode.plan_s * 1e9 == pytest.approx(steps, rel=0.005)
    dense = dispatched_flops(lambda: runner.prefill(None)) - head
    assert found.prefill.flops_ratio == pytest.approx(prefill / dense, rel=0.005)


LOOKS = ["fastervlm(keep=6)", "vispruner(keep=6)", "visionzip(dominant=4,contextual=2)", "prumerge(keep=6)",
         "prumerge_plus(keep=6)"]  # fmt: skip


@pytest.mark.parametrize("plan", LOOKS)
def test_a_method_that_looks_at_the_tower_is_shown_made_up_numbers(toy, plan):
    found = bench(toy, plan, batch=2, **FAST)
    assert found.vision_made_up
    text = FAST["text"]
    assert found.kv_ratio == pytest.approx((6 + text) / (toy.shape.visual + text))
    assert not bench(toy, "fastv(layer=1)", **FAST).vision_made_up


def test_counts_that_only_the_run_tells_are_those_that_are_priced(toy):
    found = bench(toy, "prumerge()", **FAST)
    rows = round(found.kv_ratio * (toy.shape.visual + FAST["text"])) - FAST["text"]
    again = bench(toy, f"random(keep={max(rows, 2)})", **FAST)
    assert found.prefill.flops_ratio == pytest.approx(again.prefill.flops_ratio)


def test_score_rows_count_as_flops_to_be_captured(toy):
    scored, blind = (bench(toy, f"{name}(layer=1,keep=0.5)", **FAST) for name in ("fastv", "random"))
    assert scored.prefill.flops_ratio > blind.prefill.flops_ratio
    assert scored.kv_ratio == blind.kv_ratio


def test_a_shortened_prompt_is_timed_against_the_full_one(toy):
    found = bench(toy, "resize(scale=0.5)", batch=2, **FAST)
    rows, text = toy.shape.visual, FAST["text"]
    assert found.kv_ratio == pytest.approx((rows / 4 + text) / (rows + text))
    assert found.prefill.flops_ratio < 0.7 and found.visual == rows


def test_sizes_are_read_off_the_run(each_toy):
    found = bench(each_toy, "vtw(layer=1)", batch=2, **FAST)
    rows, text = each_toy.shape.visual + FAST["text"], FAST["text"]
    row = 2 * 2 * each_toy.shape.kv_width * 4
    held = [one.recurrent is None for one in each_toy.shape.each_layer]
    assert found.dense.kv_bytes == sum(held) * rows * row
    assert found.planned.kv_bytes == (held[0] * rows + 2 * text) * row
    assert found.kv_ratio == pytest.approx(
        cost(
            each_toy.shape, Plan.of("vtw(layer=1)").route(batched(each_toy.shape.visual, text, 2), 3)
        ).kv_ratio
    )
    # Where the first layer recurs, its scan, which both run on all rows, takes most.
    most = found.dense.activation_bytes * (1 if held[0] else 1.01)
    assert found.planned.activation_bytes < most
    weights = sum(p.numel() * p.element_size() for p in each_toy.model.parameters())
    assert found.dense.peak_memory_bytes - found.dense.activation_bytes == pytest.approx(weights, rel=0.01)


def test_the_stock_side_runs_without_attachment_and_pairs_alternate(toy, monkeypatch):
    order = []
    run = Runner.run

    def watch(self, handle):
        order.append(handle is not None)
        assert (attached(self.target.model) is not None) == (handle is not None)
        return run(self, handle)

    monkeypatch.setattr(Runner, "run", watch)
    bench(toy, "shortv(budget=2)", text=12, new_tokens=2, repeats=4, warmup=1)
    assert order == [False, True, False, True, True, False, False, True, True, False]
    assert attached(toy.model) is None


def test_dense_means_attached_and_is_the_same_computation(toy):
    runner = Runner(toy, batched(toy.shape.visual, 12, 1), 4)
    with apply(toy.model, "dense") as handle:
        token, cache = runner.prefill(handle)
    stock, held = runner.prefill(None)
    assert torch.equal(token, stock)
    assert all(torch.equal(a.keys, b.keys) for a, b in zip(cache.layers, held.layers, strict=True))
    found = bench(toy, "dense", **FAST)
    assert found.prefill.flops_ratio == 1 and found.prefill.captured is None
    assert "attached without a plan" in found.verdict


def test_a_budget_takes_the_last_layers_and_a_plan_reaches_the_cache(toy):
    found = bench(toy, "vtw(budget=2)", **FAST)
    assert found.resolved == "vtw(layer=1)"
    runner = Runner(toy, batched(toy.shape.visual, 12, 1), 2)
    with apply(toy.model, found.resolved) as handle:
        token, cache = runner.prefill(handle)
        runner.step(token, cache)
    rows = toy.shape.visual + 12 + 1
    assert kv_lengths(cache) == [rows, 13, 13]


def test_phase_figures_follow_their_definitions():
    phase = Phase.of([2.0, 4.0, 3.0], [1.0, 3.0, 1.5], dense_flops=10e9, plan_flops=4e9)
    assert phase.time_ratio == 0.5, "the median of 0.5, 0.75, 0.5"
    assert (phase.dense_s, phase.plan_s, phase.flops_ratio) == (3.0, 1.5, 0.4)
    assert phase.efficiency == pytest.approx(0.8)
    assert phase.captured == pytest.approx(0.5 / 0.6)
    assert phase.dense_gflops_per_s == pytest.approx(10 / 3)
    assert Phase.of([1.0], [1.0], 1e9, 1e9).captured is None


def test_a_slower_plan_is_called_slower(toy):
    found = bench(toy, "shortv(budget=1)", **FAST)
    flops = (10e9, 9e9)
    slow = replace(found, prefill=Phase.of([1.0, 1.0, 1.0], [1.2, 1.1, 1.3], *flops))
    fast = replace(found, prefill=Phase.of([1.0, 1.0, 1.0], [0.9, 0.8, 0.9], *flops))
    even = replace(found, prefill=Phase.of([1.0, 1.0, 1.0], [0.9, 1.2, 1.0], *flops))
    assert slow.is_slower and "SLOWER" in slow.verdict and slow.to_dict()["slower"]
    assert slow.prefill.captured < 0
    assert not fast.is_slower and fast.verdict.startswith("prefill takes 0.900")
    assert not even.is_slower and "no difference that these runs can tell" in even.verdict


@pytest.mark.parametrize("layers", [1, 3])
def test_the_whole_bill_is_that_of_all_layers_or_of_none(monkeypatch, layers):
    name, tower = "toy-tower", TowerShape(2, 32, 64, 4, 192, ((32, 64),), 24)
    shape = ModelShape(name, 3, 64, 4, 4, 16, 128, 256, 24, tower=tower)
    monkeypatch.setitem(SHAPES, name, shape)
    monkeypatch.setitem(target.FAMILY_OF, name, "llava")
    device = torch.device("cpu")
    part = target.build(name, layers=layers, batch=1, rows=64, dtype=torch.float32, device=device)
    found = bench(part, "shortv(layers=0)", **FAST)
    assert (found.whole is None) == (layers == 1)


def test_progress_counts_every_run(toy):
    seen = []
    bench(toy, "dense", text=12, new_tokens=1, repeats=2, warmup=1, progress=lambda *what: seen.append(what))
    assert [done for _, done, _ in seen] == [1, 2, 3, 4, 5, 6]
    assert {total for _, _, total in seen} == {6}
    assert [phase for phase, _, _ in seen] == ["warm-up"] * 2 + ["timing"] * 4


def test_a_loaded_model_can_be_benched_as_it_is(llava):
    found = bench(llava.model, "shortv(layers=1-3)", visual=16, **FAST)
    assert (found.weights, found.layers, found.vision_s) == ("real", 4, None)
    assert found.decode is not None and found.decode.flops_ratio == 1


def test_a_plan_for_another_model_is_refused_unless_forced(llava):
    plan = Plan(Plan.of("shortv(layers=1)").methods, model={"model_type": "other"})
    with pytest.raises(ValueError, match="another model"):
        bench(llava.model, plan, visual=16, **FAST)
    assert bench(llava.model, plan, visual=16, force=True, **FAST).resolved == "shortv(layers=1)"


@pytest.mark.parametrize(
    "wrong", [{"batch": 0}, {"new_tokens": 0}, {"repeats": 0}, {"warmup": -1}, {"text": -1}, {"visual": -2}]
)
def test_counts_that_cannot_be_are_refused(toy, wrong):
    with pytest.raises(ValueError, match=r"is a number from [01]"):
        bench(toy, "dense", **{**FAST, **wrong})


def test_vision_is_timed_for_models_with_their_own_processor(llava, monkeypatch):
    from transformers import BatchFeature

    from saccade import models
    from saccade.measure.target import Target

    asked = []

    def inputs(loaded, samples, plan=None):
        asked.append(samples[0].images[0].size)
        return BatchFeature(llava.batch([[3, (24, 24), 5]]))

    monkeypatch.setattr(models, "inputs", inputs)
    loaded = models.wrap(llava.model, None, "tiny")
    real = Target("tiny", llava.model, loaded.family, loaded.shape, loaded.shape.layers, True, loaded)
    found = bench(real, "dense", **FAST)
    assert found.to_dict()["vision_ms"] == found.vision_s * 1e3 > 0 and set(asked) == {(336, 336)}
    assert found.vision_rows == 16 and found.plan_vision_s > 0 and found.whole["ratio"] == 1
    whole = (found.plan_vision_s + found.planned.ttft_s) / (found.vision_s + found.dense.ttft_s)
    assert found.to_dict()["whole_time_ratio"] == pytest.approx(whole)
    bench(real, "dense", visual=64, **FAST)
    assert asked[-1] == (672, 672), "four times the rows are a picture of twice the side"
