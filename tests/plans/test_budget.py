"""Budgets and FLOPs ratios become layers: the smallest that do, and a clear word where none do."""

from __future__ import annotations

import pytest

from saccade.core.layout import Layout
from saccade.core.shapes import SHAPES
from saccade.plans.budget import flops_ratio, last_layers, layouts_of, reach_flops, resolve_for_prompt
from saccade.plans.plan import Plan

SHAPE = SHAPES["llava-1.5-7b"]
PROMPT = Layout.single(576, 64)


def smallest(name: str, target: float) -> int:
    """The smallest budget by trying all."""
    orders = last_layers(SHAPE.layers)
    for budget in range(SHAPE.layers + 1):
        plan = Plan.of(f"{name}(budget={budget})").resolve(SHAPE.layers, orders)
        if flops_ratio(plan, SHAPE, [PROMPT]) <= target:
            return budget
    raise AssertionError("not reachable")


def touched(plan: Plan) -> int:
    method = plan.methods[0]
    return SHAPE.layers - method.layer if method.name == "vtw" else len(method.layers)


@pytest.mark.parametrize("target", [1.0, 0.999, 0.95, 0.9, 0.87])
@pytest.mark.parametrize("name", ["vskip", "ffn_skip", "shortv", "vtw"])
def test_flops_gives_the_smallest_budget_that_reaches_it(name, target):
    plan = reach_flops(Plan.of(f"{name}(flops={target})"), SHAPE, [PROMPT], last_layers(SHAPE.layers))
    assert plan.is_resolved
    assert touched(plan) == smallest(name, target)


def test_a_ratio_that_a_budget_meets_exactly_takes_that_budget():
    exact = flops_ratio(Plan.of("shortv(layers=20-31)"), SHAPE, [PROMPT])
    assert touched(resolve_for_prompt(Plan.of(f"shortv(flops={exact!r})"), SHAPE, 576, 64)) == 12


def test_an_unreachable_ratio_names_the_lowest_one():
    lowest = flops_ratio(Plan.of("vskip(layers=0-31)"), SHAPE, [PROMPT])
    with pytest.raises(ValueError, match=rf"cannot reach.*0\.5.*with vskip\(layers=0-31\), is {lowest:.4f}"):
        resolve_for_prompt(Plan.of("vskip(flops=0.5)"), SHAPE, 576, 64)


def test_other_methods_of_the_plan_count_towards_the_ratio():
    alone = resolve_for_prompt(Plan.of("vskip(flops=0.8)+vtw(layer=26)"), SHAPE, 576, 64)
    ratio = flops_ratio(alone, SHAPE, [PROMPT])
    fewer = alone.methods[0].with_budget(len(alone.methods[0].layers) - 1)
    before = Plan((fewer, alone.methods[1])).resolve(SHAPE.layers, last_layers(SHAPE.layers))
    assert ratio <= 0.8 < flops_ratio(before, SHAPE, [PROMPT])


def test_only_one_method_can_ask_for_a_ratio():
    with pytest.raises(ValueError, match="only one method"):
        resolve_for_prompt(Plan.of("vskip(flops=0.9)+shortv(flops=0.9)"), SHAPE, 576, 64)


def test_a_calibrated_order_is_followed():
    order = [5, 0, 31, *(n for n in range(32) if n not in (5, 0, 31))]
    plan = reach_flops(Plan.of("shortv(flops=0.93)"), SHAPE, [PROMPT], {"lc": order})
    assert set(plan.methods[0].layers) == set(order[: touched(plan)])
    assert {5, 0, 31} <= set(plan.methods[0].layers)


def test_a_preset_order_is_followed_and_bounds_the_budget():
    plan = resolve_for_prompt(Plan.of("shortv(preset=llava-1.5-7b,flops=0.885)"), SHAPE, 576, 64)
    assert plan.methods[0].layers == (0, 28, 29, 30, 31)
    with pytest.raises(ValueError, match=r"the lowest, with shortv\(layers=0,2-3,12,17-31\), is"):
        resolve_for_prompt(Plan.of("shortv(preset=llava-1.5-7b,flops=0.3)"), SHAPE, 576, 64)


def test_the_ratio_is_that_of_all_prompts_together():
    short, long = Layout.single(64, 64), Layout.single(2880, 64)
    orders = last_layers(SHAPE.layers)
    plans = [reach_flops(Plan.of("shortv(flops=0.7)"), SHAPE, [x], orders) for x in (short, long)]
    both = reach_flops(Plan.of("shortv(flops=0.7)"), SHAPE, [short, long], orders)
    assert touched(plans[1]) <= touched(both) < touched(plans[0])
    weighted = reach_flops(Plan.of("shortv(flops=0.7)"), SHAPE, [short, long], orders, [1.0, 0.0])
    assert touched(weighted) == touched(plans[0])


def test_a_budget_without_a_calibration_takes_the_last_layers():
    plan = resolve_for_prompt(Plan.of("vskip(budget=3)+vtw(budget=1)"), SHAPE, 576, 66.6)
    assert plan.methods[0].layers == (29, 30, 31)
    assert plan.methods[1].layer == 31


def test_a_fractional_text_is_a_weighted_pair_of_prompts():
    layouts, weights = layouts_of(576, 66.6)
    assert [int(x.text_BN.sum()) for x in layouts] == [66, 67]
    assert weights == pytest.approx((0.4, 0.6))
    assert len(layouts_of(576, 64)[0]) == 1


@pytest.mark.parametrize(("visual", "text"), [(-1, 64), (576, -0.5), (576, float("nan")), (10**9, 64)])
def test_prompts_that_cannot_be_are_refused(visual, text):
    with pytest.raises(ValueError, match="a prompt has"):
        layouts_of(visual, text)


def test_no_prompt_is_an_error():
    with pytest.raises(ValueError, match="at least one prompt"):
        reach_flops(Plan.of("vskip(flops=0.9)"), SHAPE, [], last_layers(32))


REDUCERS = [
    "fastv(layer=3,flops={})",
    "pyramiddrop(flops={})",
    "sparsevlm(flops={})",
    "visionzip(flops={})",
    "random(flops={},of=original)",
    "divprune(flops={})",
    "tome(flops={})",
    "prumerge(flops={})",
]


@pytest.mark.parametrize("target", [0.7, 0.5])
@pytest.mark.parametrize("spec", REDUCERS)
def test_a_reducer_is_turned_up_no_further_than_it_must(spec, target):
    asked = Plan.of(spec.format(target))
    plan = resolve_for_prompt(asked, SHAPE, 576, 64)
    assert plan.methods[0].flops is None
    ratio = flops_ratio(plan, SHAPE, [PROMPT])
    assert target - 0.04 < ratio <= target
    dial = asked.methods[0]
    strength = next(n for n in range(dial.max_strength(32) + 1) if dial.at_strength(n) == plan.methods[0])
    assert flops_ratio(Plan((dial.at_strength(strength - 1),)), SHAPE, [PROMPT]) > target


def test_where_cost_moves_in_steps_the_mildest_setting_below_is_taken():
    # Windows of 2 by 2 are the next thing after nothing at all.
    for target in (0.9, 0.5, 0.33):
        assert resolve_for_prompt(Plan.of(f"pool(flops={target})"), SHAPE, 576, 64).methods[0].factor == 2
    assert resolve_for_prompt(Plan.of("pool(flops=0.3)"), SHAPE, 576, 64).methods[0].factor == 3


def test_a_reducer_that_begins_too_late_names_the_lowest_ratio():
    with pytest.raises(
        ValueError, match=r"cannot reach.*0\.3 .*: the lowest, with fastv\(keep=0.0,layer=16\), is 0\.54"
    ):
        resolve_for_prompt(Plan.of("fastv(layer=16,flops=0.3)"), SHAPE, 576, 64)


def test_a_reducer_and_a_layer_method_reach_a_ratio_together():
    plan = resolve_for_prompt(Plan.of("fastv(layer=3,flops=0.5)+vskip(budget=8)"), SHAPE, 576, 64)
    alone = resolve_for_prompt(Plan.of("fastv(layer=3,flops=0.5)"), SHAPE, 576, 64)
    assert plan.methods[0].keep > alone.methods[0].keep
    assert 0.48 < flops_ratio(plan, SHAPE, [PROMPT]) <= 0.5
    turned = resolve_for_prompt(Plan.of("fastv(layer=3,keep=0.5)+vskip(flops=0.58)"), SHAPE, 576, 64)
    assert turned.methods[0].keep == 0.5 and 0.57 < flops_ratio(turned, SHAPE, [PROMPT]) <= 0.58


def test_a_lower_resolution_reaches_a_ratio_of_the_full_prompt():
    plan = resolve_for_prompt(Plan.of("resize(flops=0.5)"), SHAPE, 576, 64)
    assert 0.45 < flops_ratio(plan, SHAPE, [PROMPT]) <= 0.5


def test_a_method_without_a_dial_says_so(monkeypatch):
    from saccade.methods import METHODS

    monkeypatch.setattr(METHODS["prumerge"], "max_strength", lambda *given: 0)
    with pytest.raises(ValueError, match="prumerge has nothing to turn"):
        resolve_for_prompt(Plan.of("prumerge(flops=0.5)"), SHAPE, 576, 64)
