"""States are plans, moves change one thing, a knob is turned to the mildest setting that is cheap enough."""

from __future__ import annotations

from dataclasses import replace

import pytest

from saccade.core.layout import Layout
from saccade.methods import METHODS
from saccade.plans.plan import Plan
from saccade.tuning.price import CacheMeter, FlopsMeter, Pricer
from saccade.tuning.space import (
    OPERATIONS,
    Menu,
    State,
    check_allowed,
    composes,
    fitted,
    keeping,
    moves,
    share_of,
)
from saccade.vllm.work import ServedModel, work_of
from tuning.test_price import PROMPTS, SHAPE

LAYERS = SHAPE.layers
MENU = Menu.of(LAYERS)


def state(**changes) -> State:
    return replace(State.dense(LAYERS), **changes)


def inside(model: ServedModel):
    """Whether a method is served inside vLLM on a model."""

    def runs(method) -> bool:
        try:
            work_of(Plan((method,)), model)
        except ValueError:
            return False
        return True

    return runs


def test_a_state_is_a_spec_string():
    found = state(
        skips=("", "attention", "ffn", "freeze", "", "attention", "", ""),
        reducer=METHODS["vispruner"](keep=0.7, position_policy="keep"),
        drops=(METHODS["fastv"](layer=2, keep=0.5),),
        last=7,
        scale=0.8,
    )
    assert found.plan.spec == (
        "resize(scale=0.8)+vispruner(position_policy=keep,keep=0.7)+fastv(keep=0.5,layer=2)+"
        "vskip(layers=1,5)+ffn_skip(layers=2)+shortv(layers=3)+vtw(layer=7)"
    )
    assert Plan.of(found.plan.spec) == found.plan and State.dense(LAYERS).plan == Plan()


def test_what_has_no_effect_is_left_out():
    late = METHODS["fastv"](layer=6, keep=0.5)
    full = state(skips=("",) * 6 + ("freeze",) * 2, drops=(late,), last=5)
    assert full.tidy() == state(last=5)
    assert state(last=LAYERS).tidy() == State.dense(LAYERS)


def test_every_move_is_another_plan_that_runs_and_can_be_taken_back():
    start = state(
        skips=("", "attention", "", "freeze", "", "", "ffn", ""),
        reducer=METHODS["divprune"](keep=0.7, position_policy="keep"),
        drops=(METHODS["dart"](layer=4, keep=0.5),),
        last=7,
    )
    found = list(moves(start, MENU))
    assert len({move.name for move in found}) == len(found) > 100
    for move in found:
        assert move.to != start and move.to.plan.resolve(LAYERS).is_resolved, move.name
        assert Plan.of(move.to.plan.spec) == move.to.plan
    # Another reducer comes with a setting of its own, which the knob finds again.
    for move in [move for move in found if not move.name.startswith("before")][:40]:
        assert any(back.to.plan == start.plan for back in moves(move.to, MENU)), move.name


def test_the_menu_holds_what_is_allowed_and_runs():
    assert MENU.skips == ("attention", "ffn", "freeze") and MENU.withdraws and len(MENU.scales) > 1
    names = {reducer.name for reducer in MENU.reducers}
    assert {"vispruner", "divprune", "uniform", "token_merge"} <= names
    assert not names & {"random", "victor", "skip_vision", "fastv"}
    assert {drop.name for drop in MENU.drops} == {"fastv", "dart", "uniform"}
    few = Menu.of(LAYERS, ("ffn", "reduce"), compacts=False, runs=lambda method: method.name != "uniform")
    assert few.skips == ("ffn",) and not few.drops and not few.withdraws and few.scales == (1.0,)
    assert {reducer.position_policy for reducer in few.reducers} == {"keep"}
    assert not any(reducer.name in ("uniform", "token_merge") for reducer in few.reducers)
    served = Menu.of(LAYERS, OPERATIONS, engine="vllm", runs=inside(ServedModel(LAYERS)))
    assert (
        not served.drops and served.withdraws and {r.name for r in served.reducers} <= {"divprune", "uniform"}
    )
    shown = Menu.of(LAYERS, OPERATIONS, engine="vllm", runs=inside(ServedModel(LAYERS, shows=True)))
    assert {"divprune", "uniform", "fastervlm", "vispruner"} <= {reducer.name for reducer in shown.reducers}
    assert not any(reducer.name in ("prumerge", "cdpruner", "fastv") for reducer in shown.reducers)


@pytest.mark.parametrize(
    ("allow", "engine", "said"),
    [
        (("attention", "skip"), "transformers", "no operation 'skip' to allow"),
        (OPERATIONS, "sglang", "no engine 'sglang'"),
        (("drop", "merge"), "vllm", "vllm runs none of drop, merge"),
        ((), "transformers", "runs none of nothing"),
    ],
)
def test_what_is_not_known_is_refused(allow, engine, said):
    with pytest.raises(ValueError, match=said):
        check_allowed(allow, engine)


@pytest.mark.parametrize("meter", [FlopsMeter(SHAPE), CacheMeter()])
@pytest.mark.parametrize("name", sorted({r.name for r in MENU.reducers} - {"pool"}))
def test_a_knob_is_turned_to_the_mildest_setting_that_is_cheap_enough(meter, name):
    pricer = Pricer(meter, SHAPE, PROMPTS)
    reducer = next(r for r in MENU.reducers if r.name == name)
    found = fitted(state(reducer=reducer, skips=("",) * 6 + ("freeze",) * 2), pricer.ratio, 0.6)
    assert found is not None and found.reducer is not None and pricer.ratio(found.plan) <= 0.6
    keep = share_of(found.reducer)
    more = found.with_knob(keeping(found.reducer, keep + 0.03))
    assert pricer.ratio(more.plan) > 0.6


def test_reducers_that_cannot_go_together_are_told():
    merge, prune = METHODS["token_merge"](keep=0.6), METHODS["divprune"](keep=0.6)
    grid, fast = METHODS["uniform"](layer=3, keep=0.5), METHODS["fastv"](layer=2, keep=0.5)
    assert composes(state(reducer=prune, drops=(fast, grid))) and composes(
        state(reducer=merge, drops=(fast,))
    )
    assert not composes(state(reducer=merge, drops=(grid,)))
    with pytest.raises(ValueError, match="takes rows for the patches at their places"):
        state(reducer=merge, drops=(grid,)).plan.program(Layout.single(8, 4), LAYERS)


def test_without_a_knob_a_state_fits_or_does_not():
    ratio = Pricer(FlopsMeter(SHAPE), SHAPE, PROMPTS).ratio
    frozen = state(skips=("freeze",) * LAYERS)
    assert fitted(frozen, ratio, 0.5) == frozen and fitted(state(), ratio, 0.99) is None
    # A drop in the last layer cannot save that much, wherever it stands.
    late = state(drops=(METHODS["fastv"](layer=LAYERS - 1, keep=0.5),))
    assert fitted(late, ratio, 0.8) is None
    early = fitted(state(drops=(METHODS["fastv"](layer=1, keep=0.5),)), ratio, 0.8)
    assert early is not None and early.drops[0].layer == 1 and ratio(early.plan) <= 0.8


def test_where_layers_recur_none_skips_attention_there_and_no_drop_looks_at_it():
    menu = Menu.of(4, ("attention", "ffn", "drop"), recurrent=(0, 2))
    fastv = next(drop for drop in menu.drops if drop.name == "fastv")
    assert fastv.layer == 2
    state = State.dense(4)
    found = [move.to for move in moves(state, menu)]
    # Attention in layers 1 and 3, the FFN in all.
    assert sum("attention" in to.skips for to in found) == 2 and sum("ffn" in to.skips for to in found) == 4
    looked = {(drop.name, drop.layer) for to in found for drop in to.drops}
    assert {layer for name, layer in looked if name == "fastv"} == {2}
    assert {layer for name, layer in looked if name == "uniform"} == {1, 2, 3}


def test_inside_vllm_no_rows_leave_a_decoder_that_recurs():
    allow = ("attention", "withdraw")
    assert Menu.of(4, allow, engine="vllm", runs=inside(ServedModel(4))).withdraws
    held = inside(ServedModel(4, recurs=True))
    assert not Menu.of(4, allow, engine="vllm", runs=held, recurrent=(1,)).withdraws
    assert Menu.of(4, allow, recurrent=(1,)).withdraws


def test_a_drop_that_saves_nothing_is_left_out():
    """It could only lose."""
    late, early = (
        replace(next(d for d in MENU.drops if d.name == "uniform"), layer=layer, keep=0.5)
        for layer in (LAYERS - 1, 1)
    )

    def ratio(plan: Plan) -> float:
        """Nothing is computed for visual rows in the last layer."""
        (amount,) = [m.amount for m in plan.methods if m.layer == 1] or [1.0]  # type: ignore[attr-defined]
        return 0.2 + 0.8 * amount

    for drops in ((early, late), (late, early)):
        made = fitted(state(drops=drops), ratio, 0.52)
        assert made is not None and made.drops == (replace(early, keep=0.4),)
    assert fitted(state(drops=(late,)), ratio, 0.9) is None
    assert fitted(state(drops=(late,)), ratio, 1.0) == state()


def test_a_knob_that_need_not_be_turned_is_left_out():
    """Where the rest is cheap enough, a reducer or drop could only lose."""
    pricer = Pricer(FlopsMeter(SHAPE), SHAPE, PROMPTS)
    reducer = next(r for r in MENU.reducers if r.name == "vispruner")
    drop = replace(next(d for d in MENU.drops if d.name == "uniform"), layer=2, keep=0.5)
    rest = state(skips=("",) * 4 + ("freeze",) * 4)
    budget = pricer.ratio(rest.plan)
    assert fitted(replace(rest, reducer=keeping(reducer, 0.8)), pricer.ratio, budget) == rest
    assert fitted(replace(rest, drops=(drop,)), pricer.ratio, budget) == rest
    turned = fitted(replace(rest, reducer=keeping(reducer, 0.8)), pricer.ratio, budget - 0.01)
    assert turned is not None and turned.reducer is not None
