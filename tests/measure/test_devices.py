"""Times of devices that are not here: what they are made of, and how far from published ones they are."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from saccade.cli import main
from saccade.core.cards import CARDS, card
from saccade.core.layout import Layout
from saccade.core.route import Route
from saccade.core.shapes import SHAPES
from saccade.measure.devices import Eye, around_seconds, eyes, layer_seconds, predicted, prefill_seconds
from saccade.methods.reducer import Reducer
from saccade.plans.budget import as_processed
from saccade.plans.plan import Plan
from saccade.tuning import timing
from saccade.tuning.meters import PredictedMeter
from saccade.tuning.price import Pricer, Rows, visual_sets
from saccade.tuning.timing import KEEPS, TimedMeter

SHAPE = SHAPES["llava-1.5-7b"]
CLIP = Eye(324e6, 2 * 324e6 * 577)
PUBLISHED = {"vskip(layers=13-31)": 158.40, "vtw(layer=16)": 107.57, "shortv(layers=13-31)": 108.40}
DENSE_MS = 171.71
"""Milliseconds of V-Skip's paper on an RTX 3090, LLaVA-1.5-7B."""


def test_published_ratios_of_a_7b_model_are_met_within_ten_percent():
    pricer = Pricer(PredictedMeter(SHAPE, card("rtx3090"), "rtx3090", CLIP), SHAPE, {(576, 67): 1.0})
    for spec, ms in PUBLISHED.items():
        assert pricer.ratio(Plan.of(spec)) == pytest.approx(ms / DENSE_MS, rel=0.1), spec


@pytest.mark.parametrize("name", sorted(CARDS))
def test_more_rows_take_longer_and_no_layer_takes_less_than_its_launches(name):
    on = card(name)
    times = [
        layer_seconds(SHAPE.each_layer[0], on, n, n, n, 4.0 * SHAPE.query_width * n * n)
        for n in (10, 600, 1200, 4800)
    ]
    assert times == sorted(times) and times[0] >= on.layer_s and times[-1] > 3 * times[1]
    # Weights are read whatever the rows: a layer of one row is bound by the memory.
    weights = 2 * (4 * SHAPE.hidden**2 + 3 * SHAPE.hidden * SHAPE.ffn)
    assert layer_seconds(SHAPE.each_layer[0], on, 1, 1, 1, 0.0) >= min(on.layer_s, weights / on.bytes_per_s)
    assert around_seconds(SHAPE, on, CLIP) > around_seconds(SHAPE, on, Eye()) > on.host_s


def test_what_images_cost_follows_from_their_rows_where_the_towers_sizes_are_known():
    on = card("a100")
    meter = PredictedMeter(SHAPE, on, "a100")
    assert meter.prompt(576, 60, Plan()) == pytest.approx(around_seconds(SHAPE, on, CLIP), rel=0.02)
    assert meter.prompt(576, 60, Plan()) > meter.prompt(144, 60, Plan()) > meter.prompt(0, 60, Plan())


@pytest.mark.parametrize("name", ["llava-1.5-7b", "qwen2.5-vl-7b"])
@pytest.mark.parametrize(
    "spec",
    [
        "fastervlm(keep=0.5)",
        "hiprune(keep=0.5)",
        "tome(r=16,unmerge=true)",
        "resize(scale=0.5)",
        "divprune(keep=0.5)",
    ],
)
def test_a_search_predicts_what_cost_predicts(name, spec):
    """The tower among it: what a plan looks at there costs, and what it merges there does not."""
    shape, plan = SHAPES[name], Plan.of(spec)
    layout = Layout.single(shape.visual, 67, views=shape.views(shape.visual))
    plans = [Plan(), plan]
    routes = [each.route(as_processed(each, layout), shape.layers) for each in plans]
    _, told = predicted(shape, routes, "h100", eyes(plans, shape, shape.visual))
    pricer = Pricer(PredictedMeter(shape, card("h100"), "h100"), shape, {(shape.visual, 67): 1.0})
    assert pricer.ratio(plan) == pytest.approx(told["ratio"], rel=2e-3)


def test_faster_devices_are_faster():
    times = {name: layer_seconds(SHAPE.each_layer[0], card(name), 640, 640, 640, 0.0) for name in CARDS}
    assert times["h100"] < times["a100"] < times["l4"] < times["rtx3090"]


def test_a_device_that_is_not_known_is_refused():
    with pytest.raises(
        ValueError, match="no device 'tpu' to predict times on; known: h100, a100, l4, rtx3090"
    ):
        card("tpu")


@pytest.mark.parametrize("spec", ["dense", "vtw(layer=16)", "fastv(layer=3,keep=0.5)+vskip(layers=12-20)"])
def test_a_route_takes_what_its_rows_take(spec):
    plan, on = Plan.of(spec), card("a100")
    layout = Layout.single(576, 67, views=SHAPE.views(576))
    whole = prefill_seconds(SHAPE, plan.route(layout, SHAPE.layers), on, CLIP)
    pricer = Pricer(PredictedMeter(SHAPE, on, "a100", CLIP), SHAPE, {(576, 67): 1.0})
    dense = prefill_seconds(SHAPE, Route.dense(layout, SHAPE.layers), on, CLIP)
    assert whole / dense == pytest.approx(pricer.ratio(plan), rel=1e-9)


def test_the_command_tells_predicted_times(capsys):
    words = [
        "cost",
        "llava-1.5-7b",
        "--plan",
        "vtw(layer=16)",
        "--on",
        "rtx3090",
        "--on",
        "h100",
        "--json",
        "-",
    ]
    assert main(words) == 0
    told = json.loads(capsys.readouterr().out)["plans"][0]["predicted"]
    assert told["rtx3090"]["ratio"] == pytest.approx(PUBLISHED["vtw(layer=16)"] / DENSE_MS, rel=0.1)
    assert told["h100"]["seconds"] < told["rtx3090"]["seconds"]
    assert main(["cost", "llava-1.5-7b", "--on", "tpu"]) == 2
    assert "no device 'tpu'" in capsys.readouterr().err


def test_measured_steps_are_interpolated():
    table = {
        kind: [8.0, 6.5, 5.0, 3.5, 2.6]
        for kind in ((True, True), (False, True), (True, False), (False, False))
    }
    table[False, False] = [2.0] * len(KEEPS)
    meter = TimedMeter(4, 100, table)
    assert meter.layer(Rows(100, 9)) == 2.0 and meter.layer(Rows(60, 9)) == pytest.approx(5.6 / 4)
    assert meter.layer(Rows(60, 9, False, False)) == 0.5 and meter.layer(Rows(0, 9)) == pytest.approx(0.5)
    shape = SHAPES["llava-1.5-7b"]
    plan = Plan.of("shortv(layers=0-15)")
    pricer = Pricer(TimedMeter(32, 100, table), shape, {(100, 9): 1.0})
    assert pricer.ratio(plan) == pytest.approx((16 * 2.0 + 16 * 8.0) / (32 * 8.0))


TIMES = {(True, True): 1.0, (False, True): 0.7, (True, False): 0.6, (False, False): 0.4}
"""What a layer takes with all rows, by whether visual rows attend and pass the FFN; 0.2 of it without any."""


@pytest.mark.parametrize("depth", [2, 3, 8])
@pytest.mark.parametrize("recurrent", [(), (0,)])
def test_what_a_prompt_takes_once_is_timed_apart_from_its_layers(monkeypatch, depth, recurrent):
    parted, left, decided = 0.5, 0.8, 0.9

    def seconds(plan: Plan) -> float:
        total, share, sets = 0.3, 1.0, visual_sets(plan, depth)
        assert sets is not None
        for number, (here, query, ffn) in enumerate(sets):
            for method in plan.methods:
                for stage in method.stages(depth) if isinstance(method, Reducer) else ():
                    rows = round(100 * share)
                    kept = stage.by.kept(stage, rows, 100, 100)
                    if stage.before == number and kept < rows:
                        share, total = kept / 100, total + decided
            total += 0.2 + (TIMES[query, ffn] - 0.2) * share * here
        odd = any(here and not (query and ffn) for here, query, ffn in sets)
        return total + parted * odd + left * (not all(here for here, *_ in sets))

    def refused(_: Any, plan: Plan, sample: Any) -> str:
        sets = visual_sets(plan, depth)
        assert sets is not None
        return "no rows to skip" if any(not (sets[n][1] and sets[n][0]) for n in recurrent) else ""

    shown = torch.ones(1, 100, dtype=torch.bool)
    shape: Any = SimpleNamespace(
        layers=depth, each_layer=(SHAPE.each_layer[0],) * depth, views=SHAPE.views, recurrent_layers=recurrent
    )
    loaded: Any = SimpleNamespace(
        shape=shape, model=None, family=SimpleNamespace(visual_mask=lambda *_: shown)
    )
    monkeypatch.setattr(timing.models, "inputs", lambda *_: {"input_ids": shown})
    monkeypatch.setattr(timing, "prefills", lambda _, asked, *rest: [seconds(plan) for _, plan in asked])
    monkeypatch.setattr(timing, "refusal", refused)
    sample: Any = None
    pricer = Pricer(timing.timed(loaded, sample), shape, {(100, 10): 1.0})
    last = depth - 1
    for spec in (
        f"ffn_skip(layers={last})",
        f"vskip(layers={last})",
        f"dart(layer={last},keep=0.5)+shortv(layers={last})",
        *(() if depth < 3 else ("pyramiddrop(layers=1/2,keep=0.7)", "fitprune(layers=1/2,left=0.8/0.5)")),
        *(() if recurrent else (f"vtw(layer={last})", "vtw(layer=1)", "shortv(layers=0)")),
    ):
        plan = Plan.of(spec)
        # Where one layer alone can do something, what parting rows takes is not told apart from it.
        slack = 0.2 if depth - len(recurrent) < 2 else 0.02
        assert pricer.ratio(plan) == pytest.approx(seconds(plan) / seconds(Plan()), rel=slack), spec


def test_a_decision_is_timed_where_it_drops_rows():
    # DART keeps what its pivots share out evenly: of 100 rows at 0.97 all.
    method = next(iter(Plan.of("dart(keep=0.3,layer=6)").methods))
    assert timing.mildest(method, 100, 12).keep < 0.97
    other = next(iter(Plan.of("fastv(keep=0.3,layer=6)").methods))
    assert timing.mildest(other, 100, 12).keep == 0.97
    # A recipe is turned by no share: it is timed as it is, and each of its decisions takes its part.
    recipe = next(iter(Plan.of("fitprune(layers=2/4,left=0.9/0.8)").methods))
    assert timing.mildest(recipe, 100, 12) is recipe and len(timing.deciding(recipe, 100, 12)) == 2


def test_what_a_decision_takes_is_timed_apart_from_what_it_leaves(monkeypatch):
    layers, own = 4, {"uniform": 0.3, "dart": 0.9, "fastv": 0.5}

    def seconds(plan: Plan) -> float:
        share, total = 1.0, 0.0
        for number in range(layers):
            for method in plan.methods:
                if any(stage.before == number for stage in method.stages(layers)):
                    share *= method.keep
                    total += own[method.name] * layers
            total += share
        return total / layers

    shown = torch.ones(1, 100, dtype=torch.bool)
    loaded: Any = SimpleNamespace(
        shape=replace(SHAPE, layers=layers), model=None, family=SimpleNamespace(visual_mask=lambda *_: shown)
    )
    monkeypatch.setattr(timing.models, "inputs", lambda *_: {"input_ids": shown})
    monkeypatch.setattr(timing, "prefills", lambda _, asked, *rest: [seconds(plan) for _, plan in asked])
    monkeypatch.setattr(timing, "refusal", lambda *_: "")
    sample: Any = None
    pricer = Pricer(timing.timed(loaded, sample), loaded.shape, {(100, 10): 1.0})
    for spec in (
        "uniform(keep=0.5)",
        "dart(layer=2,keep=0.25)",
        "uniform(keep=0.75)+fastv(layer=2,keep=0.5)",
    ):
        plan = Plan.of(spec)
        assert pricer.ratio(plan) == pytest.approx(seconds(plan) / seconds(Plan()), rel=0.05), spec
