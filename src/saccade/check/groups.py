"""Groups of methods by what they declare, and one plan of each, scaled to a model."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, cast

from saccade.core.recurrence import check_looks
from saccade.methods import METHODS, Method
from saccade.plans.plan import Plan

SKIPPED = "layers skipped"
TOWER = "scored in the vision tower"
BEFORE = "chosen before the decoder"
INSIDE = "scored inside the decoder"
MERGED = "merged"
RESIZED = "resized"
RELEASED = "cache released"
COMPOSED = "composed"

GROUPS = (SKIPPED, TOWER, BEFORE, INSIDE, MERGED, RESIZED, RELEASED, COMPOSED)
"""Every group, in the order of the tables."""

SETTINGS: dict[str, dict[str, Any]] = {"pool": {"factor": 2}, "tome": {"r": 4}}
"""Where half of the dial would be far too much."""

FIRST = ("vskip", "ffn_skip", "shortv", "vtw", "fastervlm", "divprune", "fastv", "token_merge")
"""Methods that stand for their group rather than its others: the plainest, or with a slow account."""


@dataclass(frozen=True)
class Case:
    """A plan to check.

    Attributes:
        group: What kind of method it is of.
        plan: The plan, its layers known.
    """

    group: str
    plan: Plan


def group_of(method: Method, depth: int) -> str:
    """The group of a method, by what it declares.

    Args:
        method: The method, its layers known.
        depth: Decoder layers.
    """
    if method.shortens:
        return RESIZED
    if method.releases:
        return RELEASED
    stages = method.stages(depth)
    if not stages:
        return SKIPPED
    inside = method.tower_merge is not None or method.tower_prune is not None
    if inside or any(stage.rewrites for stage in stages):
        return MERGED
    if any(stage.look.layer for stage in stages):
        return INSIDE
    return TOWER if any(stage.look.tower is not None for stage in stages) else BEFORE


def group_of_plan(plan: Plan, depth: int) -> str:
    """The group of a plan."""
    if len(plan.methods) != 1:
        return COMPOSED if plan.methods else SKIPPED
    return group_of(plan.methods[0], depth)


def examples(cls: type[Method], depth: int, recurrent: Collection[int] = ()) -> list[Method]:
    """A method turned up half way on a model of a depth, in each of its groups; none if it is too shallow.

    Layers are every second one, rows half of what there are; what looks at attention does so where there is
    some.
    """
    dials = {field.name for field in fields(cls)}
    # Which fields a method has, its class alone knows.
    made, changed = cast(Any, cls), cast(Any, replace)
    half = cls().at_strength(max(1, cls().max_strength(depth, _order(depth)) // 2))
    if cls.name in SETTINGS:
        half = made(**SETTINGS[cls.name])
    tries: list[Callable[[], Method]] = [lambda: half]
    # Published layers may lie beyond a shallow model, and some methods name a layer of their own.
    if "layer" in dials:
        middle = max(1, depth // 2)
        tries += [partial(changed, half, layer=middle), partial(made, layer=middle)]
        tries += [partial(changed, half, layer=n) for n in range(1, depth) if recurrent]
    if "layers" in dials:
        tries.append(partial(changed, half, layers=tuple(range(1, depth))[:3]))
        tries += [partial(changed, half, layers=(n,)) for n in range(1, depth) if recurrent]
    found = next(_running(tries, depth, recurrent), None)
    if found is None:
        return []
    return [found, *([changed(found, cache="small")] if "cache" in dials and not recurrent else [])]


def idle(plan: Plan, depth: int) -> Plan:
    """The same methods turned down so far that they change nothing."""
    return Plan(tuple(method.at_strength(0).resolve(depth, _order(depth)) for method in plan.methods))


def _order(depth: int) -> list[int]:
    """Every second layer first, so that stock and cut layers take turns, and the last is not alone."""
    first = 1 if depth > 2 else 0
    return [*range(first, depth, 2), *range(1 - first, depth, 2)]


def _running(
    tries: Sequence[Callable[[], Method]], depth: int, recurrent: Collection[int]
) -> Iterator[Method]:
    for one in tries:
        try:
            found = one().resolve(depth, _order(depth))
            check_looks(found.stages(depth), recurrent, depth)
            yield found
        except ValueError:
            continue


def cases(depth: int, every: bool = False, recurrent: Collection[int] = ()) -> list[Case]:
    """Plans to check a model with: of every group of methods, and one composition.

    Args:
        depth: Decoder layers.
        every: One plan of every method, rather than of every group; methods that skip layers are all taken
            in any case where their row sets differ.
        recurrent: Layers without attention.
    """
    names = sorted(METHODS, key=lambda name: (FIRST.index(name) if name in FIRST else len(FIRST), name))
    found: list[Case] = []
    for name in names:
        for method in examples(METHODS[name], depth, recurrent):
            group = group_of(method, depth)
            seen = any(case.group == group for case in found)
            if every or not seen or (group == SKIPPED and name in FIRST):
                found.append(Case(group, Plan((method,))))
    inside = [case.plan.methods for case in found if case.group == INSIDE][:1]
    skipped = [case.plan.methods for case in found if case.group == SKIPPED][:1]
    parts = [method for methods in (*inside, *skipped) for method in methods]
    if len(parts) > 1:
        found.append(Case(COMPOSED, Plan(tuple(parts))))
    return sorted(found, key=lambda case: GROUPS.index(case.group))
