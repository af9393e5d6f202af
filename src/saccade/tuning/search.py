"""The search: at a given cost, the plan that loses least, by coordinate descent over composed plans.

All plans that are compared cost the same: a move changes one thing, and the knob of the state (how many rows
are kept) is turned until the plan costs what was asked. So a move that saves pays in rows, and one that was
accepted can be taken back. A surrogate orders the moves; only what was measured is accepted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from saccade.plans.plan import Plan
from saccade.tuning.judge import Judge, Loss
from saccade.tuning.price import Pricer
from saccade.tuning.space import DENSE, Menu, State, alike, fitted, moves, turned_to
from saccade.tuning.surrogate import Marginals, Surrogate


@dataclass(frozen=True)
class Tried:
    """A plan that was measured.

    Attributes:
        state: What the search makes of it.
        ratio: Its cost over that of the dense model.
        loss: What it did to the samples of the parts it was measured on.
        parts: How many parts those are, of the first.
    """

    state: State
    ratio: float
    loss: Loss
    parts: int

    @property
    def plan(self) -> Plan:
        """The plan."""
        return self.state.plan


@dataclass(frozen=True)
class Effort:
    """How hard a search tries.

    Attributes:
        passes: Prompts that may be run under plans, all budgets together.
        width: Moves that are measured in a round, on the first part of the samples.
        deep: Of those, how many are measured on all of them.
        beam: Starts that are followed.
        patience: Rounds without a gain after which a start is left.
    """

    passes: int
    width: int = 8
    deep: int = 2
    beam: int = 3
    patience: int = 3


class Spent(Exception):
    """The passes are used up; what was found so far stands."""


@dataclass
class Search:
    """Looks for plans on the samples of a judge.

    Attributes:
        judge: Measures plans.
        menu: What may be used.
        pricer: What plans cost.
        effort: How hard to try.
        marginals: Loss of every skip alone.
        score: What is to be small, of a loss.
        tried: Every plan that was measured, by its spec.
        passes: Prompts that were run under plans, those found in the journal included.
        note: Called with a line of text when something was found.
    """

    judge: Judge
    menu: Menu
    pricer: Pricer
    effort: Effort
    marginals: Marginals
    score: Callable[[Loss], float]
    note: Callable[[str], None] = lambda text: None
    tried: dict[str, Tried] = field(default_factory=dict)
    passes: int = 0
    _surrogate: Surrogate = field(init=False)

    def __post_init__(self) -> None:
        self._surrogate = Surrogate(self.menu.layers, self.marginals)

    def measure(self, state: State, parts: int) -> Tried:
        """Measures a state on the first parts of the samples; what is known is not run again.

        Raises:
            Spent: If the passes do not reach.
        """
        plan = state.plan
        found = self.tried.get(plan.spec)
        known = 0 if found is None else found.parts
        if found is None or known < parts:
            loss = None if found is None else found.loss
            for part in range(known, parts):
                size = len(self.judge.parts[part])
                if self.passes + size > self.effort.passes:
                    raise Spent
                more = self.judge.measure(plan, part)
                self.passes += size
                loss = more if loss is None else loss + more
                assert loss is not None
                found = Tried(state, self.pricer.ratio(plan), loss, part + 1)
                self.tried[plan.spec] = found
            assert found is not None
            self._surrogate.learn(state, self.score(found.loss), len(found.loss.kl))
        return found

    def at(self, found: Tried, parts: int) -> float:
        """Score of a measured plan on the first parts alone, to compare it with one that saw no more."""
        samples = sum(len(part) for part in self.judge.parts[:parts])
        part = Loss(found.loss.kl[:samples], found.loss.agrees[:samples], found.loss.margin[:samples])
        return self.score(part)

    def race(self, states: Iterable[State], deep: int) -> list[Tried]:
        """Measures states on the first part, the better half of what is left on one more, the best on all.

        Args:
            states: Distinct states.
            deep: How many are measured on all samples.

        Returns:
            Those, best first.
        """
        left, whole = list(states), len(self.judge.parts)
        found: list[Tried] = []
        parts = 1
        while left:
            found = sorted((self.measure(state, parts) for state in left), key=lambda t: self.at(t, parts))
            if parts == whole:
                break
            left = [one.state for one in found[: max(deep, len(found) // 3)]]
            parts = min(whole, max(parts + 1, parts * 2)) if len(left) > deep else whole
        return found[:deep]

    def starts(self, budget: float) -> list[State]:
        """Where a search at this cost may begin: every reducer, beside none, a few or half of the layers skipped."""
        order = self.skip_order()
        found: dict[str, State] = {}
        depths = sorted({0, self.menu.layers // 4, self.menu.layers // 2, 3 * self.menu.layers // 4})
        for reducer in (None, *self.menu.reducers):
            for count in depths:
                skips = [DENSE] * self.menu.layers
                for layer, skip in order[:count]:
                    skips[layer] = skip
                turned = None if reducer is None else turned_to(reducer, 0.8)
                state = State(tuple(skips), turned)
                self._add(found, state, budget)
                for place, template in enumerate(self.menu.drops if reducer is None else ()):
                    for layer in sorted({max(1, self.menu.layers * k // 6) for k in range(1, 6)}):
                        drop = replace(template, layer=layer, keep=0.5)  # type: ignore[call-arg]
                        if count in depths[:2] or place == 0:
                            self._add(found, replace(state, drops=(drop,)), budget)
        return list(found.values())

    def _add(self, found: dict[str, State], state: State, budget: float) -> None:
        made = fitted(state, self.pricer.ratio, budget)
        if made is not None:
            found.setdefault(made.plan.spec, made)

    def skip_order(self) -> list[tuple[int, str]]:
        """Layers with the skip that suits each best, from the least loss per cost saved on."""
        dense = State.dense(self.menu.layers)
        best: list[tuple[float, int, str]] = []
        for layer in range(self.menu.layers):
            rates = []
            for skip in self.menu.skips:
                skips = (*dense.skips[:layer], skip, *dense.skips[layer + 1 :])
                saved = 1 - self.pricer.ratio(replace(dense, skips=skips).plan)
                if saved > 0:
                    rates.append((self.marginals.get((layer, skip), 0.0) / saved, layer, skip))
            best += [min(rates)] if rates else []
        # Of equals the later layer goes first: what an image's rows do last is asked least.
        return [(layer, skip) for _, layer, skip in sorted(best, key=lambda b: (b[0], -b[1]))]

    def descend(self, start: Tried, budget: float) -> Tried:
        """Moves from a start as long as that gains.

        Raises:
            Spent: If the passes are used up; ``tried`` has what was found.
        """
        here, idle = start, 0
        while idle < self.effort.patience:
            near = self.neighbours(here.state, budget)
            near = [state for state in near if state.plan.spec not in self.tried]
            if not near:
                break
            order = self._surrogate.guess(near)
            ranked = [
                state
                for _, _, state in sorted(
                    zip(order, range(len(near)), near, strict=True), key=lambda t: t[:2]
                )
            ]
            best = next(iter(self.race(ranked[: self.effort.width], self.effort.deep)), None)
            if best is not None and self.score(best.loss) < self.score(here.loss):
                here, idle = best, 0
                self.note(f"{self.score(here.loss):.4f}  {here.plan.spec}")
            else:
                idle += 1
        return here

    def neighbours(self, state: State, budget: float) -> list[State]:
        """States one move away that cost no more than the budget, each once."""
        found: dict[str, State] = {}
        for move in moves(state, self.menu):
            self._add(found, move.to, budget)
        found.pop(state.plan.spec, None)
        return list(found.values())

    def best(self, budget: float, slack: float = 0.0) -> Tried | None:
        """The measured plan that loses least at a cost, of those measured on all samples."""
        whole = len(self.judge.parts)
        fit = [one for one in self.tried.values() if one.parts == whole and one.ratio <= budget + slack]
        return min(fit, key=lambda one: (self.score(one.loss), one.ratio), default=None)

    def run(self, budget: float, passes: int) -> Tried | None:
        """Searches at one cost.

        Args:
            budget: The most that the plan may cost, over the dense model.
            passes: How many more prompts it may run.

        Returns:
            The best that was measured on all samples; None where nothing was.
        """
        effort = self.effort
        self.effort = replace(effort, passes=min(effort.passes, self.passes + passes))
        try:
            begins = self.starts(budget)
            begins += [made for one in self.front() if (made := fitted(one.state, self.pricer.ratio, budget))]
            distinct = list({state.plan.spec: state for state in begins}.values())
            ranked = self.race(distinct, 4 * effort.beam)
            chosen: list[Tried] = []
            for one in ranked:
                if len(chosen) < effort.beam and not any(_kin(one.state, other.state) for other in chosen):
                    chosen.append(one)
            ends = [self.descend(one, budget) for one in chosen]
            if ends:
                self.descend(min(ends, key=lambda t: self.score(t.loss)), budget)
        except Spent:
            pass
        finally:
            self.effort = effort
        return self.best(budget)

    def front(self) -> list[Tried]:
        """Measured plans that no other beats both in cost and in loss, from dear to cheap."""
        whole = len(self.judge.parts)
        found: list[Tried] = []
        least = float("inf")
        for one in sorted(
            (t for t in self.tried.values() if t.parts == whole), key=lambda t: (t.ratio, self.score(t.loss))
        ):
            if self.score(one.loss) < least:
                least = self.score(one.loss)
                found.append(one)
        return found[::-1]


def _kin(one: State, other: State) -> bool:
    """Whether two starts lead to the same place: the same reducer, and drops by the same methods."""
    reducers = (one.reducer, other.reducer)
    same = reducers[0] is reducers[1] or (
        reducers[0] is not None and reducers[1] is not None and alike(reducers[0], reducers[1])
    )
    return same and [d.name for d in one.drops] == [d.name for d in other.drops]
