"""The search finds what a plan's loss hides from one-by-one scores, within its passes, and the same again."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import pytest

from saccade.plans.plan import Plan
from saccade.tuning.judge import Loss
from saccade.tuning.price import FlopsMeter, Pricer
from saccade.tuning.search import Effort, Search
from saccade.tuning.space import Menu, State, change, moves
from saccade.tuning.surrogate import Surrogate, alive_shares
from tuning.test_price import PROMPTS, SHAPE

LAYERS = SHAPE.layers
PRICER = Pricer(FlopsMeter(SHAPE), SHAPE, PROMPTS)
ALONE = {
    (layer, skip): weight * (LAYERS - layer) / LAYERS
    for layer in range(LAYERS)
    for skip, weight in (("attention", 0.1), ("ffn", 0.03), ("freeze", 0.12))
}


@dataclass
class Known:
    """A judge whose losses are a formula (``loss_of``)."""

    parts: list[list[int]]
    ran: list[str] = field(default_factory=list)

    def ahead(self, wanted) -> None:
        """Nobody helps."""

    def measure(self, plan: Plan, part: int) -> Loss:
        self.ran.append(plan.spec)
        value = loss_of(plan)
        size = len(self.parts[part])
        return Loss((value,) * size, (value < 0.1,) * size, (0.5,) * size)


def loss_of(plan: Plan) -> float:
    """Skipped neighbours lose ten times as much as alone; rows lose by the square of what is dropped."""
    skipped, found = {}, 0.0
    for method in plan.methods:
        if getattr(method, "layers", None):
            name = {"vskip": "attention", "ffn_skip": "ffn", "shortv": "freeze"}[method.name]
            skipped |= {layer: name for layer in method.layers}  # type: ignore[attr-defined]
        elif hasattr(method, "amount"):
            late = getattr(method, "layer", 0) / LAYERS
            worse = {"vispruner": 1.0, "uniform": 2.0}.get(method.name, 4.0)
            found += worse * (1 - late) * (1 - method.amount) ** 2
        else:
            found += 3.0
    for layer, skip in skipped.items():
        found += ALONE[layer, skip] * (10 if layer - 1 in skipped else 1)
    return found


def searching(menu: Menu, passes: int, **effort) -> Search:
    judge = Known([[0, 1], [2, 3], [4]])
    return Search(judge, menu, PRICER, Effort(passes, **effort), ALONE, lambda kl: kl)  # type: ignore[arg-type]


def test_it_finds_the_best_of_all_plans_of_a_small_space():
    menu = Menu(LAYERS, ("freeze",))
    found = searching(menu, 4000).run(0.72, 4000)
    plans = [
        State(tuple("freeze" if on else "" for on in bits)).plan
        for bits in itertools.product((0, 1), repeat=LAYERS)
    ]
    best = min((plan for plan in plans if PRICER.ratio(plan) <= 0.72), key=loss_of)
    assert found is not None and found.ratio <= 0.72
    assert loss_of(found.plan) <= 1.3 * loss_of(best)
    # The scores of the layers one by one lead to neighbours, which lose ten times as much.
    order = [layer for layer, _ in searching(menu, 1).skip_order()]
    greedy = next(
        plan
        for count in range(LAYERS)
        if PRICER.ratio(
            plan := State(tuple("freeze" if n in order[:count] else "" for n in range(LAYERS))).plan
        )
        <= 0.72
    )
    assert loss_of(greedy) > 2 * loss_of(found.plan)


def test_layers_and_rows_together_beat_both_alone():
    menu = Menu.of(LAYERS, ("attention", "ffn", "freeze", "drop", "reduce"))
    search = searching(menu, 800)
    found = search.run(0.7, 800)
    assert found is not None and found.ratio <= 0.7 and found.parts == 3
    assert found.state.reducer is None or found.state.reducer.name == "vispruner"
    assert any(found.state.skips)
    rows = searching(Menu.of(LAYERS, ("reduce",)), 800).run(0.7, 800)
    assert rows is not None and loss_of(found.plan) < 0.8 * loss_of(rows.plan)
    ratios = [one.ratio for one in search.front()]
    losses = [one.loss.mean for one in search.front()]
    assert ratios == sorted(ratios, reverse=True) and losses == sorted(losses)


@pytest.mark.parametrize("between", [0.05, 0.2])
def test_what_only_two_changes_together_bring_is_found(between):
    """From a start whose neighbours all lose more, where what is two changes away loses less."""
    menu = Menu(LAYERS, ("freeze",))
    search = searching(menu, 6000)
    start, goal = (tuple("freeze" if n in on else "" for n in range(LAYERS)) for on in ((1, 3), (5, 7)))
    known = {State(start).plan.spec: 0.1, State(goal).plan.spec: 0.01}
    search.judge.measure = lambda plan, part: Loss(  # type: ignore[method-assign]
        (known.get(plan.spec, 0.1 + between),) * len(search.judge.parts[part]), (True,) * 2, (0.5,) * 2
    )
    here = search.measure(State(start), 3)
    budget = here.ratio
    assert search.descend(here, budget, 3, patience=1).plan.spec == State(start).plan.spec
    assert search.descend(here, budget, 3).plan.spec == State(goal).plan.spec


def test_what_falls_behind_the_plan_at_hand_is_measured_no_further():
    search = searching(Menu(LAYERS, ("freeze",)), 6000)
    judge = search.judge
    assert isinstance(judge, Known)
    rival = search.measure(State(("",) * LAYERS), 3)
    states = [State(tuple("freeze" if n == at else "" for n in range(LAYERS))) for at in range(4)]
    judge.ran.clear()
    assert search.race(states, 2, 3, rival) == [] and len(judge.ran) == 4
    found = search.race(states, 2, 3)
    assert [one.parts for one in found] == [3, 3] and found[0].loss.mean <= found[1].loss.mean


def test_kinds_of_changes_take_turns():
    menu = Menu.of(LAYERS, ("attention", "freeze", "reduce", "drop", "withdraw", "resize"))
    here = State(("freeze",) * 3 + ("",) * (LAYERS - 3))
    search = searching(menu, 100)
    near = [move.to for move in moves(here, menu)]
    kinds = [change(here, state) for state in search._mixed(here, near)]
    every = ["drop", "exchange", "reducer", "resolution", "skip", "withdrawal"]
    assert sorted(kinds[:6]) == every and sorted(kinds[6:12]) == every and len(kinds) == len(near)


def test_passes_bound_it_and_runs_repeat():
    menu = Menu.of(LAYERS, ("attention", "ffn", "freeze", "reduce"))
    runs = []
    for passes in (60, 60, 200):
        search = searching(menu, passes)
        best = search.run(0.6, passes)
        judge = search.judge
        assert search.passes <= passes
        assert isinstance(judge, Known) and len(judge.ran) == len({*enumerate(judge.ran)})
        runs.append((judge.ran, best))
    assert runs[0][0] == runs[1][0]
    assert runs[2][1] is not None and runs[0][1] is not None
    assert runs[2][1].loss.mean <= runs[0][1].loss.mean


def test_a_dearer_search_starts_the_next():
    menu = Menu.of(LAYERS, ("ffn", "freeze"))
    search = searching(menu, 2000)
    first, second = search.run(0.9, 500), search.run(0.8, 500)
    assert first is not None and second is not None and first.ratio <= 0.9 and second.ratio <= 0.8
    assert search.run(0.05, 100) is None


def test_the_surrogate_orders_what_it_has_not_seen():
    states = [
        State(tuple("freeze" if on else "" for on in bits))
        for bits in itertools.product((0, 1), repeat=LAYERS)
    ]
    guess = Surrogate(LAYERS, ALONE)
    additive = {s: sum(ALONE[n, "freeze"] for n, skip in enumerate(s.skips) if skip) for s in states}
    assert guess.guess(states)[0] < guess.guess(states)[-1]
    for state in states[::5]:
        guess.learn(state, additive[state] + 0.01, 10)
    rest = [s for n, s in enumerate(states) if n % 5]
    told = guess.guess(rest)
    pairs = list(itertools.combinations(range(0, len(rest), 7), 2))
    right = sum((told[a] < told[b]) == (additive[rest[a]] < additive[rest[b]]) for a, b in pairs)
    assert right / len(pairs) > 0.85


def test_shares_of_rows_follow_every_cut():
    menu = Menu.of(LAYERS)
    dart = next(d for d in menu.drops if d.name == "uniform")
    reducer = next(r for r in menu.reducers if r.name == "divprune")
    from dataclasses import replace

    state = State(("",) * LAYERS, replace(reducer, keep=0.5), (replace(dart, layer=3, keep=0.4),), 6)
    assert alive_shares(state) == pytest.approx([0.5] * 3 + [0.2] * 3 + [0.0] * 2)
