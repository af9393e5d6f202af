"""What a search may change about a plan: a frozen state, its spec, and moves from one state to others (pure).

A state says what every layer does with the visual rows, which reducer runs before the decoder, where rows
are dropped inside it, from which layer on there are none, and at what resolution. Whatever it says is a spec
string.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any

from saccade.core.layout import Layout
from saccade.core.recurrence import check_looks
from saccade.methods import METHODS, KeepReducer, Method
from saccade.methods.base import STRENGTHS, LayerMethod
from saccade.methods.ffn_skip import FFNSkip
from saccade.methods.kinds import TRAINED
from saccade.methods.reducer import Reducer
from saccade.methods.resize import Resize
from saccade.methods.shortv import ShortV
from saccade.methods.vskip import VSkip
from saccade.methods.vtw import VTW
from saccade.plans.plan import Plan
from saccade.tuning.operations import OPERATIONS, check_allowed

DENSE = ""
SKIPS: dict[str, type[LayerMethod]] = {"attention": VSkip, "ffn": FFNSkip, "freeze": ShortV}
"""What a layer may leave out for visual rows, by the name of the operation."""

LUCK = ("random",)
"""Methods that look at nothing and hang on a seed: baselines, not plans to serve."""

STEPS = (0.1, 0.2, 0.35, 0.5, 0.65, 0.8)
"""Shares of the rows that a drop inside the decoder may keep when it is first tried."""

SCALES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Resolutions that are tried."""

MOST_DROPS = 2
"""Drops inside the decoder that a state may hold, withdrawal aside."""


@dataclass(frozen=True)
class State:
    """One plan, as the search sees it.

    Attributes:
        skips: For every layer ``""`` (dense) or a key of ``SKIPS``.
        reducer: What runs before the decoder, or None.
        drops: Reducers inside the decoder, in the order of their layers.
        last: First layer without visual rows, or None.
        scale: Resolution, of each side.
    """

    skips: tuple[str, ...]
    reducer: Reducer | None = None
    drops: tuple[KeepReducer, ...] = ()
    last: int | None = None
    scale: float = 1.0

    @classmethod
    def dense(cls, layers: int) -> State:
        """The stock model."""
        return cls((DENSE,) * layers)

    @property
    def plan(self) -> Plan:
        """The plan it stands for."""
        end = len(self.skips) if self.last is None else self.last
        methods: list[Method] = [] if self.scale == 1 else [Resize(scale=self.scale)]
        methods += [method for method in (self.reducer, *self.drops) if method is not None]
        for name, cls in SKIPS.items():
            layers = tuple(n for n, skip in enumerate(self.skips[:end]) if skip == name)
            methods += [cls(layers=layers)] if layers else []
        return Plan((*methods, *([] if self.last is None else [VTW(layer=self.last)])))

    @property
    def knob(self) -> Reducer | None:
        """What is turned to reach a cost: the reducer before the decoder, else the first drop inside it."""
        return self.reducer or next(iter(self.drops), None)

    def with_knob(self, turned: Any) -> State:
        """The same state with another setting of its knob."""
        if self.reducer is not None:
            return replace(self, reducer=turned)
        return replace(self, drops=(turned, *self.drops[1:]))

    def tidy(self) -> State:
        """The same plan without what has no effect: drops and skips past the last visual row."""
        end = len(self.skips) if self.last is None else self.last
        drops = tuple(sorted((d for d in self.drops if _layer(d) < end), key=_layer))
        skips = (*self.skips[:end], *(DENSE,) * (len(self.skips) - end))
        return replace(self, skips=skips, drops=drops, last=None if end == len(self.skips) else self.last)


def _layer(method: Any) -> int:
    return int(method.layer)


@dataclass(frozen=True)
class Menu:
    """What a search may use on one model.

    Attributes:
        layers: Depth of the decoder.
        skips: Keys of ``SKIPS`` that are allowed.
        reducers: What may run before the decoder, each at any setting of its dial.
        drops: What may drop rows inside the decoder, at its first possible layer.
        withdraws: Whether all rows may leave.
        scales: Resolutions.
        recurrent: Layers without attention: none skips it there, and no drop looks at it.
    """

    layers: int
    skips: tuple[str, ...]
    reducers: tuple[Reducer, ...] = ()
    drops: tuple[KeepReducer, ...] = ()
    withdraws: bool = False
    scales: tuple[float, ...] = (1.0,)
    recurrent: frozenset[int] = frozenset()

    @classmethod
    def of(
        cls,
        layers: int,
        allow: Sequence[str] = OPERATIONS,
        *,
        engine: str = "transformers",
        compacts: bool = True,
        runs: Callable[[Method], bool] = lambda method: True,
        recurrent: Collection[int] = (),
    ) -> Menu:
        """What the registry offers.

        Args:
            layers: Depth of the decoder.
            allow: Some of ``OPERATIONS``.
            engine: What will serve the plan, one of ``ENGINES``.
            compacts: Whether positions of this model can close up.
            runs: Whether a method runs on this model.
            recurrent: Layers that have no attention.

        Raises:
            ValueError: If an operation or the engine is unknown, or the engine runs none of what is allowed.
        """
        known = check_allowed(allow, engine)
        reducers: list[Reducer] = []
        drops: list[KeepReducer] = []
        for name, method_cls in METHODS.items():
            if name in (*TRAINED, *LUCK) or not issubclass(method_cls, Reducer):
                continue
            method: Any = method_cls()
            place = next((f.name for f in fields(method) if f.name == "layer"), None)
            if place is not None and isinstance(method, KeepReducer) and "drop" in known:
                first: Any = method
                places = (replace(first, layer=layer) for layer in range(1, layers))
                where = next((one for one in places if _sees(one, layers, recurrent)), None)
                drops += [where] if where is not None and runs(where) else []
            try:
                stages = method.stages(layers)
            except ValueError:
                continue
            if not stages or any(stage.before for stage in stages) or method.max_strength(layers) < 2:
                continue
            if ("merge" if any(stage.rewrites for stage in stages) else "reduce") not in known:
                continue
            policies = ("keep", "compact") if compacts else ("keep",)
            found = [replace(method, position_policy=policy) for policy in policies]
            reducers += [each for each in found if runs(each)]
        return cls(
            layers,
            tuple(name for name in SKIPS if name in known),
            tuple(reducers),
            tuple(drops),
            "withdraw" in known and runs(VTW(layer=layers - 1)),
            tuple(s for s in SCALES if s == 1 or ("resize" in known and runs(Resize(scale=s)))),
            frozenset(recurrent),
        )

    def holds(self, state: State) -> bool:
        """Whether every layer of a state has what is skipped there, or looked at."""
        if not self.recurrent:
            return True
        skipped = {n for n, skip in enumerate(state.skips) if skip == "attention"}
        return not skipped & self.recurrent and all(
            _sees(drop, self.layers, self.recurrent) for drop in state.drops
        )


def _sees(drop: Method, layers: int, recurrent: Collection[int]) -> bool:
    try:
        check_looks(drop.stages(layers), recurrent, layers)
    except ValueError:
        return False
    return True


def change(one: State, other: State) -> str:
    """What kind of thing tells two states apart, where their knobs stand aside."""
    if one.scale != other.scale:
        return "resolution"
    if one.last != other.last:
        return "withdrawal"
    if one.skips != other.skips:
        return "skip" if sum(a != b for a, b in zip(one.skips, other.skips, strict=True)) == 1 else "exchange"
    reducers = [state.reducer and keeping(state.reducer, 0.5) for state in (one, other)]
    return "reducer" if reducers[0] != reducers[1] else "drop"


def together(here: State, others: Iterable[State]) -> State:
    """What several states do otherwise than one, all at once; where two of them differ the later counts."""
    found = here
    for other in others:
        skips = tuple(
            new if new != old else now
            for old, new, now in zip(here.skips, other.skips, found.skips, strict=True)
        )
        rest = ("reducer", "drops", "last", "scale")
        changed = {name: getattr(other, name) for name in rest if getattr(other, name) != getattr(here, name)}
        found = replace(found, skips=skips, **changed)
    return found.tidy()


@dataclass(frozen=True)
class Move:
    """A change of a state.

    Attributes:
        name: What it does, once among the moves of a state.
        to: The state it leads to, its knob still where it was.
    """

    name: str
    to: State


def moves(state: State, menu: Menu) -> Iterator[Move]:
    """Every change of one thing: to cheaper and to dearer, so that what was accepted can be taken back."""
    return (move for move in _moves(state, menu) if menu.holds(move.to))


def _moves(state: State, menu: Menu) -> Iterator[Move]:
    yield from _layer_moves(state, menu)
    yield from _reducer_moves(state, menu)
    yield from _drop_moves(state, menu)
    if menu.withdraws:
        yield from _last_moves(state, menu)
    for scale in menu.scales:
        if scale != state.scale:
            yield Move(f"resize to {scale}", replace(state, scale=scale))


def _layer_moves(state: State, menu: Menu) -> Iterator[Move]:
    end = menu.layers if state.last is None else state.last
    for layer in range(end):
        for skip in (DENSE, *menu.skips):
            if skip != state.skips[layer]:
                skips = (*state.skips[:layer], skip, *state.skips[layer + 1 :])
                yield Move(f"layer {layer}: {skip or 'dense'}", replace(state, skips=skips))
        for other in range(layer + 1, end):
            if state.skips[layer] != state.skips[other]:
                skips_L = list(state.skips)
                skips_L[layer], skips_L[other] = skips_L[other], skips_L[layer]
                name = f"layers {layer} and {other} change places"
                yield Move(name, replace(state, skips=tuple(skips_L)))


def _reducer_moves(state: State, menu: Menu) -> Iterator[Move]:
    keep = None if state.reducer is None else share_of(state.reducer)
    for reducer in menu.reducers:
        if state.reducer is None or not alike(reducer, state.reducer):
            turned = keeping(reducer, 0.8 if keep is None else keep)
            yield Move(f"before the decoder: {label(reducer)}", replace(state, reducer=turned))
    if state.reducer is not None:
        yield Move("before the decoder: nothing", replace(state, reducer=None))


def _drop_moves(state: State, menu: Menu) -> Iterator[Move]:
    end = menu.layers if state.last is None else state.last
    for place, drop in enumerate(state.drops):
        rest = (*state.drops[:place], *state.drops[place + 1 :])
        here, keep = _layer(drop), share_of(drop)
        yield Move(f"no drop at layer {here}", replace(state, drops=rest))
        for layer in (here - 2, here - 1, here + 1, here + 2):
            if 1 <= layer < end and all(_layer(other) != layer for other in rest):
                moved: Any = replace(drop, layer=layer)  # type: ignore[call-arg]
                yield Move(f"drop at {here} moves to {layer}", replace(state, drops=(*rest, moved)).tidy())
        for other in (keep * 0.6, keep * 0.8, keep * 1.25, keep * 1.6):
            if 0.02 <= other < 1:
                turned: Any = replace(drop, keep=round(other, 2))
                yield Move(f"drop at {here} keeps {other:.2f}", replace(state, drops=(*rest, turned)).tidy())
        for template in menu.drops:
            if type(template) is not type(drop):
                swapped: Any = replace(template, layer=here, keep=drop.keep)  # type: ignore[call-arg]
                yield Move(
                    f"drop at {here} by {template.name}", replace(state, drops=(*rest, swapped)).tidy()
                )
    if len(state.drops) < MOST_DROPS:
        taken = {_layer(drop) for drop in state.drops}
        for template in menu.drops:
            for layer in range(1, end):
                if layer in taken:
                    continue
                for keep in STEPS:
                    new: Any = replace(template, layer=layer, keep=keep)  # type: ignore[call-arg]
                    name = f"drop at {layer} by {template.name}, keep {keep}"
                    yield Move(name, replace(state, drops=(*state.drops, new)).tidy())


def _last_moves(state: State, menu: Menu) -> Iterator[Move]:
    here = menu.layers if state.last is None else state.last
    for last in range(max(1, here - 3), min(menu.layers, here + 3) + 1):
        if last != here:
            new = None if last == menu.layers else last
            yield Move(f"no visual rows from {last} on", replace(state, last=new).tidy())


def alike(one: Reducer, other: Reducer) -> bool:
    """Whether two are the same but for where their dials stand."""
    return keeping(one, 0.5) == keeping(other, 0.5)


@lru_cache(maxsize=4096)
def _compose(methods: tuple[Method, ...], layers: int) -> bool:
    try:
        Plan(methods).program(Layout.single(4, 4), layers)
    except ValueError:
        return False
    return True


def composes(state: State) -> bool:
    """Whether its reducers can go together, which hangs neither on what they keep nor on the skips."""
    reducer = None if state.reducer is None else keeping(state.reducer, 0.5)
    drops: list[Any] = [replace(drop, keep=0.5) for drop in state.drops]
    methods = tuple(method for method in (reducer, *drops) if method is not None)
    return len(methods) < 2 or _compose(methods, len(state.skips))


def label(reducer: Reducer) -> str:
    """A reducer's name and what it does with positions."""
    policy = reducer.position_policy
    return reducer.name if policy is None else f"{reducer.name}, positions {policy}"


def share_of(reducer: Reducer, rows: int = 1000) -> float:
    """Share of an image's rows that it keeps."""
    if isinstance(reducer, KeepReducer) and isinstance(reducer.amount, float):
        return reducer.amount
    stage = next(iter(reducer.stages(reducer.__dict__.get("depth", 32))), None)
    if stage is None:
        return 1.0
    return reducer.kept(stage, rows, rows, rows) / rows


@lru_cache(maxsize=65536)
def keeping(reducer: Reducer, keep: float) -> Any:
    """The same reducer that keeps about this share."""
    if isinstance(reducer, KeepReducer):
        return replace(reducer, keep=round(min(max(keep, 0.0), 1.0), 3))
    if reducer.max_strength(32) == STRENGTHS:
        return reducer.at_strength(round((1 - keep) * STRENGTHS))
    strengths = range(reducer.max_strength(32) + 1)
    return min(
        (reducer.at_strength(strength) for strength in strengths), key=lambda r: abs(share_of(r) - keep)
    )


LEAST_KEEP = 0.02
"""Smallest share of the rows that a knob is turned to."""


def fitted(state: State, ratio: Callable[[Plan], float], budget: float) -> State | None:
    """The state with its knob turned so that it just costs no more than a budget.

    Args:
        state: Where the knob may stand anywhere.
        ratio: Cost of a plan over that of the dense model, falling with what the knob keeps.
        budget: The most it may cost.

    Returns:
        The mildest setting that is cheap enough, without what is not needed: a knob that need not be turned,
        and drops that save nothing. None where there is none.
    """
    made = _turned(state.tidy(), ratio, budget)
    if made is None:
        return None
    for drop in made.drops:
        rest = replace(made, drops=tuple(other for other in made.drops if other is not drop))
        # Behind the last layer that computes anything for visual rows a drop is a risk alone.
        made = rest if ratio(rest.plan) <= ratio(made.plan) else made
    return made


def _turned(state: State, ratio: Callable[[Plan], float], budget: float) -> State | None:
    knob = state.knob
    if knob is None:
        return state if ratio(state.plan) <= budget else None
    bare = replace(state, drops=state.drops[1:]) if state.reducer is None else replace(state, reducer=None)
    if ratio(bare.plan) <= budget:
        return bare
    high = knob.max_strength(len(state.skips))
    high = min(high, int((1 - LEAST_KEEP) * STRENGTHS)) if high == STRENGTHS else high

    def at(strength: int) -> State:
        return state.with_knob(knob.at_strength(strength))

    if ratio(at(high).plan) > budget:
        return None
    mildest = bisect_left(range(high), True, lo=1, key=lambda strength: ratio(at(strength).plan) <= budget)
    return _rounded(state, knob, mildest, ratio)


def _rounded(state: State, knob: Reducer, strength: int, ratio: Callable[[Plan], float]) -> State:
    """The setting in as few digits as cost the same: no row of these prompts is lost by it."""
    found = state.with_knob(knob.at_strength(strength))
    if not isinstance(knob, KeepReducer):
        return found
    share = (STRENGTHS - strength) / STRENGTHS
    for digits in (1, 2):
        scale = 10**digits
        short = state.with_knob(replace(knob, keep=int(share * scale + 1e-9) / scale))
        if share_of(short.knob) >= LEAST_KEEP and ratio(short.plan) > ratio(found.plan) - 1e-9:  # type: ignore[arg-type]
            return short
    return found
