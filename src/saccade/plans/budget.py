"""From what a user asks for (a budget, a FLOPs ratio) to layers, at a given prompt (pure)."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace

import torch

from saccade.core.layout import Layout, Views
from saccade.core.pricing import Cost, against, blend, cost
from saccade.core.recurrence import check_looks, check_sets
from saccade.core.route import Route
from saccade.core.shapes import ModelShape
from saccade.methods import METHODS
from saccade.methods.base import LayerMethod
from saccade.plans.plan import Plan

MAX_ROWS = 4_000_000
"""Longest prompt that is priced; beyond it a mistyped count is likelier than a prompt."""

SLACK = 1e-12
"""Rounding that a ratio may lie above its target."""

Orders = dict[str, Sequence[int]]
"""Layers in the order they should be touched, by score name."""


def last_layers(num_layers: int) -> Orders:
    """Orders for models without a calibration: every score takes the last layers first."""
    scores = {cls.score for cls in METHODS.values() if cls.score}
    return {score: tuple(reversed(range(num_layers))) for score in sorted(scores)}


def sparing(orders: Orders, shape: ModelShape) -> Orders:
    """Orders without the layers in which what they are for spares nothing: attention that is not there.

    Args:
        orders: Layers by score name.
        shape: Sizes of the decoder.
    """
    layout, recurrent = Layout.single(1, 1), shape.recurrent_layers
    if not recurrent:
        return orders
    full_BN = torch.ones_like(layout.visual_BN)
    alone: dict[str, bool] = {}
    for cls in METHODS.values():
        if cls.score is not None and issubclass(cls, LayerMethod):
            touched = cls(layers=(0,)).touched(layout, full_BN)
            fewer = touched.alive_BN is not full_BN or touched.ffn_BN is not full_BN
            alone[cls.score] = alone.get(cls.score, True) and not fewer
    return {
        score: tuple(n for n in order if n not in recurrent) if alone.get(score) else order
        for score, order in orders.items()
    }


def layouts_of(
    visual: int, text: float, views: Views | None = None
) -> tuple[tuple[Layout, ...], tuple[float, ...]]:
    """Layouts of a one-image prompt and their weights; a fractional ``text`` gives its two neighbours.

    Args:
        visual: Visual rows.
        text: Text rows; the papers' averages are fractional (66.6).
        views: Patches of every view of the image; not known if omitted.

    Raises:
        ValueError: If a count is negative, not finite or absurdly large.
    """
    if not (0 <= visual <= MAX_ROWS and 0 <= text <= MAX_ROWS):
        raise ValueError(
            f"a prompt has 0 to {MAX_ROWS} visual and text rows, got {visual} visual and {text} text"
        )
    low, share = int(text), text - int(text)
    if share == 0:
        return (Layout.single(visual, low, views=views),), (1.0,)
    layouts = tuple(Layout.single(visual, rows, views=views) for rows in (low, low + 1))
    return layouts, (1 - share, share)


def as_processed(plan: Plan, layout: Layout) -> Layout:
    """The prompts as they reach the model: methods that shorten the prompt itself make images smaller.

    Args:
        plan: Methods; those that work at the processor (``shortens``) say how many rows are left.
        layout: The prompts without the plan.
    """
    if not plan.shortening:
        return layout
    samples, views = [], []
    for b, (visual_N, real_N, image_N, counts) in enumerate(
        zip(layout.visual_BN, layout.real_BN, layout.image_BN, layout.counts, strict=True)
    ):
        keep_N, cuts = real_N.clone(), []
        for image, rows in enumerate(counts):
            fewer = rows
            for method in plan.shortening:
                fewer = method.visual_rows(fewer)
            keep_N[(image_N == image).nonzero()[fewer:, 0]] = False
            if layout.views is not None:
                cuts.append(_smaller(layout.views[b][image], fewer, rows))
        samples.append((visual_N[keep_N], image_N[keep_N]))
        views.append(tuple(cuts))
    longest = max((len(visual_N) for visual_N, _ in samples), default=0)
    visual_BN = torch.zeros(layout.batch, longest, dtype=torch.bool)
    real_BN, image_BN = torch.zeros_like(visual_BN), torch.full_like(visual_BN, -1, dtype=torch.long)
    for b, (visual_N, image_N) in enumerate(samples):
        # Padded on the left, as prompts are.
        first = longest - len(visual_N)
        visual_BN[b, first:], image_BN[b, first:], real_BN[b, first:] = visual_N, image_N, True
    return Layout(visual_BN, real_BN, image_BN, None if layout.views is None else tuple(views))


def _smaller(views: Views, fewer: int, rows: int) -> Views:
    """Views of an image that has fewer rows: an only view shrinks, of several there are fewer."""
    if len(views) == 1:
        return (fewer,)
    return views[: max(round(len(views) * fewer / rows), 1)]


def price(plan: Plan, shape: ModelShape, layout: Layout, dtype_bytes: int = 2) -> Cost:
    """What a resolved plan costs on some prompts, against the stock model on the full prompts.

    Raises:
        ValueError: If it asks for what has no meaning in a recurrent layer, or methods cannot go together.
    """
    short = as_processed(plan, layout)
    program = plan.program(short, shape.layers)
    check_looks(program.stages, shape.recurrent_layers, shape.layers)
    check_sets(program.route, shape.recurrent_layers, plan.spec)
    found = cost(shape, program.nominal(), dtype_bytes)
    if short is layout:
        return found
    return against(found, cost(shape, Route.dense(layout, shape.layers), dtype_bytes))


def price_prompt(
    plan: Plan,
    shape: ModelShape,
    visual: int,
    text: float,
    dtype_bytes: int = 2,
    cut: int | None = None,
) -> Cost:
    """What a resolved plan costs on a prompt of one image; a fractional ``text`` mixes its two neighbours.

    ``cut`` is the number of views of the image, as many as its rows fill if omitted.
    """
    layouts, weights = layouts_of(visual, text, shape.views(visual, cut))
    first, *rest = [price(plan, shape, layout, dtype_bytes) for layout in layouts]
    return blend(first, rest[0], weights[1]) if rest else first


def reach_flops(
    plan: Plan,
    shape: ModelShape,
    layouts: Sequence[Layout],
    orders: Orders | None = None,
    weights: Sequence[float] | None = None,
) -> Plan:
    """Replaces ``flops=r`` by the mildest setting that reaches it, and resolves the whole plan.

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
        ValueError: If two methods ask for ``flops``, the one that asks has nothing to turn, no setting of it
            reaches the ratio (the lowest reachable one is named), or the plan does not resolve.
    """
    orders = None if orders is None else sparing(orders, shape)
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

    def at(strength: int) -> Plan:
        methods = (*plan.methods[:place], method.at_strength(strength), *plan.methods[place + 1 :])
        return replace(plan, methods=methods).resolve(shape.layers, orders)

    def ratio(strength: int) -> float:
        return flops_ratio(at(strength), shape, layouts, weights)

    high = method.max_strength(shape.layers, (orders or {}).get(method.score or ""))
    if high < 1:
        raise ValueError(
            f"{method.name} has nothing to turn down, so it cannot be asked for a FLOPs ratio: what it costs "
            "hangs on the picture, or on the numbers it is given"
        )
    lowest = ratio(high)
    if lowest > target + SLACK:
        raise ValueError(
            f"{plan.spec} cannot reach a FLOPs ratio of {target:g} on {shape.name}: "
            f"the lowest, with {at(high).spec}, is {lowest:.4f}"
        )
    return at(bisect_left(range(high), True, key=lambda strength: ratio(strength) <= target + SLACK))


def flops_ratio(
    plan: Plan, shape: ModelShape, layouts: Sequence[Layout], weights: Sequence[float] | None = None
) -> float:
    """FLOPs of a resolved plan over those of the stock model (papers' rectangle, summed over layouts)."""
    weights = weights or [1.0] * len(layouts)
    costs = [price(plan, shape, layout) for layout in layouts]
    dense = sum(w * c.dense_tflops for w, c in zip(weights, costs, strict=True))
    return sum(w * c.tflops for w, c in zip(weights, costs, strict=True)) / dense if dense else 1.0


def resolve_for_prompt(
    plan: Plan,
    shape: ModelShape,
    visual: int,
    text: float,
    orders: Orders | None = None,
    cut: int | None = None,
) -> Plan:
    """Resolves a plan for one prompt, as ``cost`` and ``bench`` do.

    Args:
        plan: Methods, resolved or not.
        shape: Sizes of the decoder.
        visual: Visual rows.
        text: Text rows, fractional if an average is meant.
        orders: Calibrated orders; without them a budget of N takes the **last** N layers, since what a route
            costs depends on how many layers it touches and (nearly) not on which.
        cut: Views of the image, as many as its rows fill if omitted.

    Raises:
        ValueError: As ``reach_flops``.
    """
    layouts, weights = layouts_of(visual, text, shape.views(visual, cut))
    return reach_flops(plan, shape, layouts, orders or last_layers(shape.layers), weights)
