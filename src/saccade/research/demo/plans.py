"""Which plans the demo runs: every budget of V-Skip, and other layer methods at a few (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from saccade.core.layout import Layout
from saccade.core.shapes import ModelShape
from saccade.methods import METHODS, BudgetMethod
from saccade.methods.kinds import LAYERWISE
from saccade.plans.budget import flops_ratio
from saccade.plans.plan import Plan

MAIN, *OTHERS = LAYERWISE


@dataclass(frozen=True)
class DemoPlan:
    """One plan of the demo.

    Attributes:
        name: Name in tables, for example ``V-Skip 6``.
        method: Spec name of its method.
        title: Title of its method.
        budget: Layers it touches.
        plan: The resolved plan.
    """

    name: str
    method: str
    title: str
    budget: int
    plan: Plan


def entry(method: str, budget: int, num_layers: int, orders: Mapping[str, Sequence[int]]) -> DemoPlan:
    """A method at a budget, resolved."""
    cls = METHODS[method]
    assert issubclass(cls, BudgetMethod)
    plan = Plan((cls().with_budget(budget),)).resolve(num_layers, dict(orders))
    return DemoPlan(f"{cls.title} {budget}", method, cls.title, budget, plan)


def nearest_budget(
    method: str, target: float, shape: ModelShape, layout: Layout, orders: Mapping[str, Sequence[int]]
) -> int:
    """The budget, at least 1, whose FLOPs ratio is nearest to the target."""

    def miss(budget: int) -> float:
        plan = entry(method, budget, shape.layers, orders).plan
        return abs(flops_ratio(plan, shape, [layout]) - target)

    return min(range(1, shape.layers + 1), key=miss)


@dataclass(frozen=True)
class Lineup:
    """The plans of a demo, and those its tables show.

    Attributes:
        entries: All plans.
        main: Name of V-Skip at half the layers.
        layers: Names of all methods at half the layers.
        flops: Names of all methods at the cost nearest to that of ``main``.
    """

    entries: tuple[DemoPlan, ...]
    main: str
    layers: tuple[str, ...]
    flops: tuple[str, ...]


def lineup(shape: ModelShape, layout: Layout, orders: Mapping[str, Sequence[int]]) -> Lineup:
    """Plans for a model of this shape on prompts of this layout.

    Args:
        shape: Sizes of the decoder.
        layout: A typical prompt.
        orders: Calibrated orders by score name.
    """
    depth = shape.layers
    half = max(1, depth // 2)
    budgets = {MAIN: set(range(1, depth + 1))}
    target = flops_ratio(entry(MAIN, half, depth, orders).plan, shape, [layout])
    near = {MAIN: half}
    for method in OTHERS:
        near[method] = nearest_budget(method, target, shape, layout, orders)
        budgets[method] = {max(1, depth // 4), half, max(1, 3 * depth // 4), near[method]}
    entries = [entry(m, b, depth, orders) for m, chosen in budgets.items() for b in sorted(chosen)]
    named = {(e.method, e.budget): e.name for e in entries}
    return Lineup(
        tuple(entries),
        named[MAIN, half],
        tuple(named[m, half] for m in budgets),
        tuple(named[m, near[m]] for m in budgets),
    )
