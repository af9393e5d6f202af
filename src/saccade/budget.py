"""From what a user asks for (a budget, a FLOPs ratio) to layers, at a given prompt (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from saccade.layout import Layout
from saccade.methods import METHODS, Method
from saccade.plan import Plan
from saccade.pricing import cost
from saccade.shapes import ModelShape

MAX_ROWS = 4_000_000
"""Longest prompt that is priced; beyond it a mistyped count is likelier than a prompt."""

Orders = dict[str, Sequence[int]]
"""Layers in the order they should be touched, by score name."""


def last_layers(num_layers: int) -> Orders:
    """Orders for models without a calibration: every score takes the last layers first."""
    scores = {cls.score for cls in METHODS.values() if cls.score}
    return {score: tuple(reversed(range(num_layers))) for score in sorted(scores)}


def layouts_of(visual: int, text: float) -> tuple[tuple[Layout, ...], tuple[float, ...]]:
    """Layouts of a one-image prompt and their weights; a fractional ``text`` gives its two neighbours.

    Args:
        visual: Visual rows.
        text: Text rows; the papers' averages are fractional (66.6).

    Raises:
        ValueError: If a count is negative, not finite or absurdly large.
    """
    if not (0 <= visual <= MAX_ROWS and 0 <= text <= MAX_ROWS):
        raise ValueError(
            f"a prompt has 0 to {MAX_ROWS} visual and text rows, got {visual} visual and {text} text"
        )
    low, share = int(text), text - int(text)
    if share == 0:
        return (Layout.single(visual, low),), (1.0,)
    return (Layout.single(visual, low), Layout.single(visual, low + 1)), (1 - share, share)


def reach_flops(
    plan: Plan,
    shape: ModelShape,
    layouts: Sequence[Layout],
    orders: Orders | None = None,
    weights: Sequence[float] | None = None,
) -> Plan:
    """Replaces ``flops=r`` by the smallest budget that reaches it, and resolves the whole plan.

    The ratio is that of the composed route: the papers' rectangle, summed over the layouts.

    Args:
        plan: Methods, of which one may ask for ``flops``.
        shape: Sizes of the decoder.
        layouts: Prompts the ratio is taken over.
        orders: Layers in the order they should be touched, by score name.
        weights: Weight of each layout; equal if omitted.

    Returns:
        The resolved plan.

    Raises:
        ValueError: If two methods ask for ``flops``, no budget reaches the ratio (the lowest reachable one is
            named), or the plan does not resolve.
    """
    wanting = [i for i, method in enumerate(plan.methods) if method.flops is not None]
    if not wanting:
        return plan.resolve(shape.layers, orders)
    if len(wanting) > 1:
        raise ValueError(
            f"only one method of a plan can ask for a FLOPs ratio, in {plan.spec} there are {len(wanting)}"
        )
    if not layouts:
        raise ValueError("a FLOPs ratio needs at least one prompt to be taken over")
    place = wanting[0]
    method = plan.methods[place]
    target = float(method.flops or 1.0)

    def at(budget: int) -> Plan:
        methods = (*plan.methods[:place], method.with_budget(budget), *plan.methods[place + 1 :])
        return replace(plan, methods=methods).resolve(shape.layers, orders)

    def ratio(budget: int) -> float:
        return flops_ratio(at(budget), shape, layouts, weights)

    low, high = 0, _most(method, shape, orders)
    lowest = ratio(high)
    if lowest > target + 1e-12:
        raise ValueError(
            f"{plan.spec} cannot reach a FLOPs ratio of {target:g} on {shape.name}: "
            f"the lowest, with {high} layers, is {lowest:.4f}"
        )
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if ratio(middle) <= target + 1e-12 else (middle + 1, high)
    return at(low)


def flops_ratio(
    plan: Plan, shape: ModelShape, layouts: Sequence[Layout], weights: Sequence[float] | None = None
) -> float:
    """FLOPs of a resolved plan over those of the stock model (papers' rectangle, summed over layouts)."""
    weights = weights or [1.0] * len(layouts)
    costs = [cost(shape, plan.route(layout, shape.layers)) for layout in layouts]
    dense = sum(w * c.dense_tflops for w, c in zip(weights, costs, strict=True))
    return sum(w * c.tflops for w, c in zip(weights, costs, strict=True)) / dense if dense else 1.0


def resolve_for_prompt(
    plan: Plan, shape: ModelShape, visual: int, text: float, orders: Orders | None = None
) -> Plan:
    """Resolves a plan for one prompt, as ``cost`` and ``bench`` do.

    Args:
        plan: Methods, resolved or not.
        shape: Sizes of the decoder.
        visual: Visual rows.
        text: Text rows, fractional if an average is meant.
        orders: Calibrated orders; without them a budget of N takes the **last** N layers, since what a route
            costs depends on how many layers it touches and (nearly) not on which.

    Raises:
        ValueError: As ``reach_flops``.
    """
    layouts, weights = layouts_of(visual, text)
    return reach_flops(plan, shape, layouts, orders or last_layers(shape.layers), weights)


def _most(method: Method, shape: ModelShape, orders: Orders | None) -> int:
    """The largest budget a method can be given."""
    preset = getattr(method, "presets", {}).get(getattr(method, "preset", None))
    order = preset if isinstance(preset, tuple) else (orders or {}).get(method.score or "")
    return min(shape.layers, len(order)) if order is not None else shape.layers
