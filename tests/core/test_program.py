"""Programs: whatever is put together, sets stay consistent, nothing returns, and counts are exact."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saccade.core.layout import Layout
from saccade.core.program import Tally, in_order, narrowed
from saccade.core.route import Route
from saccade.core.shapes import SHAPES
from saccade.methods import METHODS, Reducer
from saccade.plans.plan import Plan

LAYERS = 8

fractions = st.floats(0, 1).map(lambda x: round(x, 3))
amounts = fractions | st.integers(2, 40)
layers = st.integers(1, LAYERS - 1)

PARTS = {
    "vskip": st.lists(st.integers(0, LAYERS - 1), unique=True).map(
        lambda ls: f"vskip(layers={'/'.join(map(str, ls)) or 'none'})"
    ),
    "ffn_skip": layers.map(lambda n: f"ffn_skip(layers={n})"),
    "shortv": layers.map(lambda n: f"shortv(layers={n})"),
    "vtw": layers.map(lambda n: f"vtw(layer={n})"),
    "fastv": st.tuples(layers, amounts).map(lambda t: f"fastv(layer={t[0]},keep={t[1]})"),
    "random": st.tuples(st.integers(0, LAYERS - 1), amounts).map(
        lambda t: f"random(layer={t[0]},keep={t[1]})"
    ),
    "uniform": amounts.map(lambda a: f"uniform(keep={a})"),
    "pyramiddrop": fractions.map(lambda f: f"pyramiddrop(keep={f})"),
    "sparsevlm": fractions.map(lambda f: f"sparsevlm(tokens={f})"),
    "sparsevlm_plus": fractions.map(lambda f: f"sparsevlm_plus(tokens={f})"),
    "dart": st.tuples(layers, fractions).map(lambda t: f"dart(layer={t[0]},keep={t[1]})"),
    "fastervlm": amounts.map(lambda a: f"fastervlm(keep={a})"),
    "vispruner": amounts.map(lambda a: f"vispruner(keep={a})"),
    "divprune": amounts.map(lambda a: f"divprune(keep={a})"),
    "pixelprune": st.just("pixelprune()"),
    "cdpruner": amounts.map(lambda a: f"cdpruner(keep={a})"),
    "fitprune": fractions.map(lambda f: f"fitprune(keep={f})"),
    "hiprune": amounts.map(lambda a: f"hiprune(keep={a},alpha=0.5)"),
    "visionzip": st.just("visionzip(dominant=9,contextual=3)"),
    "prumerge": st.just("prumerge()"),
    "prumerge_plus": st.just("prumerge_plus()"),
    "pool": st.integers(1, 4).map(lambda n: f"pool(factor={n})"),
    "token_merge": st.tuples(amounts, st.integers(0, 4), st.integers(0, 4)).map(
        lambda t: f"token_merge(keep={t[0]},first={t[1]},last={t[2]})"
    ),
    "tome": st.integers(0, 20).map(lambda r: f"tome(r={r})"),
    "resize": st.just("resize(scale=0.5)"),
    "skip_vision": st.tuples(amounts, st.sampled_from(["none", "small"]), st.booleans()).map(
        lambda t: f"skip_vision(retained={min(t[0], 1.0)},cache={t[1]},split={'grid' if t[2] else 'leading'})"
    ),
    "victor": st.tuples(st.integers(0, 9), layers).map(lambda t: f"victor(registers={t[0]},layer={t[1]})"),
}


def prompts() -> st.SearchStrategy[Layout]:
    """Ragged batches of prompts with 0 to 2 images."""
    sample = st.lists(st.integers(1, 30), max_size=2)

    def build(samples: list[list[int]]) -> Layout:
        rows = [[True] * sum(s) + [False] * 3 for s in samples]
        longest = max(map(len, rows))
        mask = torch.tensor([[False] * (longest - len(r)) + r for r in rows])
        real = torch.tensor([[False] * (longest - len(r)) + [True] * len(r) for r in rows])
        return Layout.from_mask(mask, real, samples)

    return st.lists(sample, min_size=1, max_size=3).map(build)


def test_every_method_is_drawn_from():
    assert set(PARTS) == set(METHODS)


@pytest.mark.parametrize("name", sorted(PARTS))
@settings(max_examples=25)
@given(data=st.data())
def test_the_route_of_any_method_is_consistent(name, data):
    layout, spec = data.draw(prompts()), data.draw(PARTS[name])
    Plan.of(spec).route(layout, LAYERS).check()


@settings(max_examples=150)
@given(prompts(), st.lists(st.sampled_from(sorted(PARTS)).flatmap(PARTS.__getitem__), min_size=2, max_size=4))
def test_composition_never_revives_a_row_and_keeps_text_alive(layout, specs):
    plan = Plan.of("+".join(specs))
    try:
        route = plan.route(layout, LAYERS)
    except ValueError as error:
        assert re.search(r"write (it|\w+\(.*\)) first", str(error))
        return
    route.check()
    for layer in route.layers:
        assert not bool((layout.text_BN & ~layer.alive_BN).any())


def unscored():
    """Methods whose rows do not depend on what is seen."""
    return st.sampled_from(["vskip", "ffn_skip", "shortv", "vtw", "random"]).flatmap(PARTS.__getitem__)


@settings(max_examples=60)
@given(prompts(), unscored(), unscored(), unscored())
def test_composition_of_unscored_methods_is_associative(layout, a, b, c):
    """Whatever is put together first: the same methods in the same order are the same program."""
    first, second, third = (Plan.of(spec).methods for spec in (a, b, c))
    left, right = Plan((*(first + second), *third)), Plan((*first, *(second + third)))
    for one, other in zip(left.route(layout, LAYERS).layers, right.route(layout, LAYERS).layers, strict=True):
        assert torch.equal(one.alive_BN, other.alive_BN)
        assert torch.equal(one.query_BN, other.query_BN) and torch.equal(one.ffn_BN, other.ffn_BN)


@settings(max_examples=60)
@given(prompts(), amounts, st.sampled_from(["found", "original"]))
def test_a_fraction_is_of_what_is_found_unless_it_says_otherwise(layout, keep, of):
    plan = Plan.of(f"random(keep=0.5)+random(layer=3,keep={keep},of={of})")
    half = Plan.of("random(keep=0.5)").route(layout, LAYERS).layers[0].alive_BN & layout.visual_BN
    left = plan.route(layout, LAYERS).layers[3].alive_BN & layout.visual_BN
    for b, sample in enumerate(layout.counts):
        for image, original in enumerate(sample):
            here = layout.image_BN[b] == image
            found, kept = int((half[b] & here).sum()), int((left[b] & here).sum())
            base = original if of == "original" else found
            want = keep if keep > 1 else max(int(base * keep + 1e-9), 1 if keep and base else 0)
            assert kept == min(found, want)


def test_stages_are_reached_by_layer_and_those_that_look_back_come_first():
    plan = Plan.of("pyramiddrop(layers=3)+fastv(layer=3,keep=0.5)+random(keep=0.5)")
    stages = in_order([stage for method in plan.methods for stage in method.stages(LAYERS)])
    assert [(s.before, s.by.name) for s in stages] == [(0, "random"), (3, "fastv"), (3, "pyramiddrop")]


def test_a_tally_counts_what_static_methods_drop_in_between():
    layout = Layout.single(10, 4)
    half = layout.visual_BN & (torch.arange(layout.rows) % 2 == 0)
    route = narrowed(Route.dense(layout, LAYERS), 2, layout.text_BN | half)
    stages = in_order(
        [s for m in Plan.of("random(layer=1,keep=8)+random(layer=3,keep=3)").methods for s in m.stages(8)]
    )
    tally, left = Tally(route, stages), layout.visual_BN.clone()
    assert tally.reach(stages[0], lambda: left) == (((10,),), ((8,),))
    left[0, layout.visual_BN[0].nonzero()[:2, 0]] = False
    tally.cut(((8,),))
    assert tally.reach(stages[1], lambda: left) == (((int((left & half).sum()),),), ((3,),))


@pytest.mark.parametrize("name", sorted(n for n, cls in METHODS.items() if issubclass(cls, Reducer)))
def test_turning_a_reducer_up_never_costs_more(name):
    from saccade.core.pricing import cost

    shape, layout = SHAPES["llava-1.5-7b"], Layout.single(576, 66)
    method = METHODS[name]()
    top = method.max_strength(shape.layers)
    costs = [
        cost(shape, Plan((method.at_strength(round(top * share / 5)),)).route(layout, shape.layers)).tflops
        for share in range(6)
    ]
    assert costs == sorted(costs, reverse=True)
    assert top == 0 or costs[-1] < costs[0]
