"""The search: at a given cost, the plan that loses least, by coordinate descent over composed plans.

All plans that are compared cost the same: a move changes one thing, and the knob of the state (how many rows
are kept) is turned until the plan costs what was asked. So a move that saves pays in rows, and one that was
accepted can be taken back. A surrogate orders the moves; only what was measured is accepted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from random import Random
from statistics import fmean, pvariance

from saccade.plans.plan import Plan
from saccade.tuning.judge import Judge, Loss
from saccade.tuning.price import Pricer
from saccade.tuning.space import DENSE, Menu, State, alike, change, composes, fitted, keeping, moves, together
from saccade.tuning.surrogate import Marginals, Surrogate

LEAPS = 200
"""States that are drawn when several changes are tried together."""

FURTHEST = 3
"""Changes that are tried together, at most."""


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
        deep: Of those, how many are measured on all samples of the level.
        beam: Starts that are followed.
        patience: Rounds without a gain after which a start is left.
        first: Parts of the samples at the first level, at least.
        begin: Share of the passes that may go into starts.
        end: Share of the passes that is kept for measuring the best on all samples.
    """

    passes: int
    width: int = 24
    deep: int = 2
    beam: int = 3
    patience: int = 3
    first: int = 4
    begin: float = 0.2
    end: float = 0.15


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
        score: What is to be small on average, of the KL of an answer in nats.
        tried: Every plan that was measured, by its spec.
        passes: Prompts that were run under plans, those found in the journal included.
        note: Called with a line of text when something was found.
    """

    judge: Judge
    menu: Menu
    pricer: Pricer
    effort: Effort
    marginals: Marginals
    score: Callable[[float], float]
    note: Callable[[str], None] = field(default_factory=lambda: lambda text: None)
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
            self._surrogate.learn(state, self.lost(found), len(found.loss.kl))
        return found

    def _ahead(self, states: Iterable[State], parts: int) -> None:
        """Lets helpers take part in what ``measure`` is asked next, as far as the passes reach."""
        wanted: list[tuple[Plan, int]] = []
        left = self.effort.passes - self.passes
        for state in states:
            plan = state.plan
            known = self.tried[plan.spec].parts if plan.spec in self.tried else 0
            for part in range(known, parts):
                left -= len(self.judge.parts[part])
                if left < 0:
                    break
                wanted.append((plan, part))
        self.judge.ahead(wanted)

    def at(self, found: Tried, parts: int) -> float:
        """Score of a measured plan on the first parts alone, to compare it with one that saw no more."""
        samples = sum(len(part) for part in self.judge.parts[:parts])
        return fmean(map(self.score, found.loss.kl[:samples]))

    def lost(self, found: Tried) -> float:
        """Score of a measured plan on all samples that it was measured on."""
        return fmean(map(self.score, found.loss.kl))

    def race(self, states: Iterable[State], deep: int, whole: int, rival: Tried | None = None) -> list[Tried]:
        """Measures states on the first part, the better half on two, and so on; the best on some parts.

        Args:
            states: Distinct states.
            deep: How many are measured on all of those parts, at most.
            whole: How many parts those are.
            rival: What they have to beat, measured on those parts: those that fall behind it by more than
                chance would have it are measured no further.

        Returns:
            Those measured on all, best first.
        """
        left, parts = list(states), 1
        found: list[Tried] = []
        while left:
            self._ahead(left, parts)
            found = sorted((self.measure(state, parts) for state in left), key=lambda t: self.at(t, parts))
            if rival is not None:
                found = [one for one in found if self._may_beat(one, rival, parts)]
            if parts >= whole:
                break
            left = [one.state for one in found[: max(deep, len(found) // 2)]]
            parts = min(whole, parts * 2)
        return found[:deep]

    def _may_beat(self, one: Tried, rival: Tried, parts: int) -> bool:
        """Whether a plan is behind another on the first parts by a standard error of their pairs at most."""
        samples = sum(len(part) for part in self.judge.parts[:parts])
        pairs = zip(one.loss.kl[:samples], rival.loss.kl[:samples], strict=True)
        behind = [self.score(mine) - self.score(other) for mine, other in pairs]
        return fmean(behind) <= (pvariance(behind) / samples) ** 0.5

    def starts(self, budget: float) -> list[State]:
        """Where a search at this cost may begin, the likeliest first.

        Every reducer, every drop inside the decoder and nothing of both, beside a half, a quarter, three
        quarters and none of the layers skipped, in the order of what the skips lose alone; with reducers also
        by the skip that saves most, which leaves them the most rows.
        """
        layers, orders = self.menu.layers, [self.skip_order()]
        most = self.menu.skips[-1:]  # of a whole layer, if that is allowed
        if most != self.menu.skips:
            orders.append(self.skip_order(most))
        found: dict[str, State] = {}
        for share in (0.5, 0.25, 0.75, 0.0):
            bases = [_skipping(order[: round(share * layers)], layers) for order in orders]
            for base in bases:
                self._add(found, base, budget)
                for reducer in self.menu.reducers:
                    self._add(found, replace(base, reducer=keeping(reducer, 0.8)), budget)
            for place in range(3):
                for template in self.menu.drops:
                    drop = replace(template, layer=max(1, layers * (place + 1) // 4), keep=0.5)  # type: ignore[call-arg]
                    self._add(found, replace(bases[0], drops=(drop,)), budget)
        return list(found.values())

    def _add(self, found: dict[str, State], state: State, budget: float) -> None:
        made = fitted(state, self.pricer.ratio, budget) if composes(state) else None
        if made is not None:
            found.setdefault(made.plan.spec, made)

    def skip_order(self, skips: Sequence[str] | None = None) -> list[tuple[int, str]]:
        """Layers with the skip that suits each best, from the least loss per cost saved on.

        Args:
            skips: Those that are tried; all that are allowed if omitted.
        """
        dense = State.dense(self.menu.layers)
        best: list[tuple[float, int, str]] = []
        for layer in range(self.menu.layers):
            rates = []
            for skip in self.menu.skips if skips is None else skips:
                tried = (*dense.skips[:layer], skip, *dense.skips[layer + 1 :])
                saved = 1 - self.pricer.ratio(replace(dense, skips=tried).plan)
                if saved > 0:
                    rates.append((self.marginals.get((layer, skip), 0.0) / saved, layer, skip))
            best += [min(rates)] if rates else []
        # Of equals the later layer goes first: what an image's rows do last is asked least.
        return [(layer, skip) for _, layer, skip in sorted(best, key=lambda b: (b[0], -b[1]))]

    def descend(self, start: Tried, budget: float, parts: int, patience: int | None = None) -> Tried:
        """Moves from a start as long as that gains.

        Args:
            start: Where to begin, measured on those parts.
            budget: The most that a plan may cost.
            parts: Parts of the samples that decide.
            patience: Rounds without a gain after which it ends; with None when there is no other move.

        Raises:
            Spent: If the passes are used up; ``tried`` has what was found.
        """
        here, idle = start, 0
        while patience is None or idle < patience:
            # Every other round without a gain looks further, for what only several changes together bring.
            reach = (self.leaps, self.neighbours) if idle % 2 else (self.neighbours, self.leaps)
            near = next(filter(None, (self._untried(look(here.state, budget)) for look in reach)), None)
            if near is None:
                break
            ranked = self._mixed(here.state, near)
            best = next(iter(self.race(ranked[: self.effort.width], self.effort.deep, parts, here)), None)
            if best is not None and self.at(best, parts) < self.at(here, parts):
                here, idle = best, 0
                self.note(f"  {self.at(here, parts):.4f} on {parts} parts: {here.plan.spec}")
            else:
                idle += 1
        return here

    def leaps(self, state: State, budget: float) -> list[State]:
        """States some moves away, of different kinds or layers, drawn by chance, that cost no more."""
        kinds: dict[str, list[State]] = {}
        for move in moves(state, self.menu):
            kinds.setdefault(change(state, move.to), []).append(move.to)
        draw, found = Random(len(self.tried)), dict[str, State]()
        for _ in range(LEAPS if kinds else 0):
            steps = [draw.choice(draw.choice(list(kinds.values()))) for _ in range(draw.randint(2, FURTHEST))]
            there = together(state, steps)
            if self.menu.holds(there):
                self._add(found, there, budget)
        found.pop(state.plan.spec, None)
        return list(found.values())

    def _untried(self, states: Iterable[State]) -> list[State]:
        return [state for state in states if state.plan.spec not in self.tried]

    def _mixed(self, here: State, near: Sequence[State]) -> list[State]:
        """States that the surrogate takes to lose least first, every kind of change in turn."""
        guessed = self._surrogate.guess(near)
        kinds: dict[str, list[State]] = {}
        for _, number in sorted((guess, number) for number, guess in enumerate(guessed)):
            kinds.setdefault(change(here, near[number]), []).append(near[number])
        turns = zip_longest(*kinds.values())
        return [state for turn in turns for state in turn if state is not None]

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
        return min(fit, key=lambda one: (self.lost(one), one.ratio), default=None)

    def run(self, budget: float, passes: int) -> Tried | None:
        """Searches at one cost.

        Args:
            budget: The most that the plan may cost, over the dense model.
            passes: How many more prompts it may run.

        Returns:
            The best that was measured on all samples; None where nothing was.
        """
        effort = self.effort
        last = min(effort.passes, self.passes + passes)
        search = last - int(effort.end * (last - self.passes))
        levels = self.levels()
        try:
            self.effort = replace(effort, passes=search)
            chosen = self._begun(budget, int(effort.begin * passes), levels[0])
            for number, parts in enumerate(levels):
                ends = number == len(levels) - 1
                # Half of what is left for every level but the last, which takes all, for what it finds is
                # measured on all samples.
                share, patience, end = (1.0, None, last) if ends else (0.5, self.effort.patience, search)
                self.effort = replace(effort, passes=self.passes + int(share * (end - self.passes)))
                try:
                    for one in chosen:
                        self.descend(one, budget, parts, patience)
                except Spent:
                    pass
                self.effort = replace(effort, passes=search)
                chosen = self._kept(budget, parts, len(self.judge.parts))
        except Spent:
            pass
        finally:
            self.effort = replace(effort, passes=last)
        try:
            leaders = self.leaders(budget)
            self._ahead([one.state for one in leaders], len(self.judge.parts))
            for one in leaders:
                self.measure(one.state, len(self.judge.parts))
        except Spent:
            pass
        finally:
            self.effort = effort
        return self.best(budget)

    def levels(self) -> list[int]:
        """Parts of the samples that decide, level by level: a half of them, then all."""
        whole = len(self.judge.parts)
        half = max(min(self.effort.first, whole), (whole + 1) // 2)
        return [whole] if half == whole else [half, whole]

    def _begun(self, budget: float, passes: int, parts: int) -> list[Tried]:
        """The best starts, each of another kind, measured on some parts."""
        begins = [made for one in self.front() if (made := fitted(one.state, self.pricer.ratio, budget))]
        begins += self.starts(budget)
        distinct = list({state.plan.spec: state for state in begins}.values())
        most = max(2 * self.effort.beam, int(0.6 * passes / len(self.judge.parts[0])))
        ranked = self.race(distinct[:most], 3 * self.effort.beam, parts)
        return self._apart(ranked)

    def _kept(self, budget: float, parts: int, more: int) -> list[Tried]:
        """The best of a level, each of another kind, measured on the parts of the next."""
        found = [one for one in self.tried.values() if one.parts >= parts and one.ratio <= budget]
        found.sort(key=lambda one: self.at(one, parts))
        near = [one for one in found[: 2 * self.effort.beam]] + self._apart(found)
        distinct = list({one.plan.spec: one for one in near}.values())
        self._ahead([one.state for one in distinct], more)
        again = sorted(
            (self.measure(one.state, more) for one in distinct), key=lambda one: self.at(one, more)
        )
        return self._apart(again)

    def _apart(self, found: Sequence[Tried]) -> list[Tried]:
        """The first of them, each of another kind, as many as are followed."""
        chosen: list[Tried] = []
        for one in found:
            if len(chosen) < self.effort.beam and not any(
                _alike_starts(one.state, other.state) for other in chosen
            ):
                chosen.append(one)
        return chosen

    def leaders(self, budget: float) -> list[Tried]:
        """Plans within a cost, from the likeliest to lose least on all samples: those of most parts first."""
        fit = [one for one in self.tried.values() if one.ratio <= budget]
        most = max((one.parts for one in fit), default=0)
        return sorted((one for one in fit if one.parts == most), key=lambda one: self.at(one, most))[:12]

    def front(self) -> list[Tried]:
        """Measured plans that no other beats both in cost and in loss, from dear to cheap."""
        whole = len(self.judge.parts)
        found: list[Tried] = []
        least = float("inf")
        for one in sorted(
            (t for t in self.tried.values() if t.parts == whole), key=lambda t: (t.ratio, self.lost(t))
        ):
            if self.lost(one) < least:
                least = self.lost(one)
                found.append(one)
        return found[::-1]


def _alike_starts(one: State, other: State) -> bool:
    """Whether two starts lead to the same place: the same reducer, and drops by the same methods."""
    reducers = (one.reducer, other.reducer)
    same = reducers[0] is reducers[1] or (
        reducers[0] is not None and reducers[1] is not None and alike(reducers[0], reducers[1])
    )
    return same and [d.name for d in one.drops] == [d.name for d in other.drops]


def _skipping(chosen: Sequence[tuple[int, str]], layers: int) -> State:
    """A state that skips in some layers and does nothing else."""
    skips = [DENSE] * layers
    for layer, skip in chosen:
        skips[layer] = skip
    return State(tuple(skips))
