"""Prefill times on devices that are not here, predicted operation by operation from FLOPs and bytes (pure).

Every matrix product takes its arithmetic or its traffic, whichever is longer (``roofline``), at the rates of
the maker's data sheet times what large products reach of them. Beside them count the traffic of norms,
activations and rotary positions, the launches of a layer, the vision tower, the head on one row, and what the
host takes for a prompt. What the host and the launches of an RTX 3090 take was read off the latencies of the
stock model and of VTW in V-Skip's paper (arXiv 2606.08511); the tests hold its ratios for a 7B model to 10 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from saccade.core.cards import Card, card
from saccade.core.pricing import mixing_flops, scoring_flops
from saccade.core.route import Route
from saccade.core.shapes import LayerShape, ModelShape
from saccade.measure.roofline import rows_seconds
from saccade.plans.bill import seeing_flops
from saccade.plans.plan import Plan

PASSES_HIDDEN, PASSES_FFN = 26, 5
"""How often a layer's element-wise operations read or write a row of the hidden width, and of the FFN's."""


@dataclass(frozen=True)
class Eye:
    """What a prompt's images cost before the decoder.

    Attributes:
        parameters: Weights of the vision tower and the projector, which are read once.
        flops: FLOPs of their matrix products; ``Eye()`` leaves the images out.
    """

    parameters: float = 0.0
    flops: float = 0.0


def layer_seconds(
    shape: LayerShape,
    on: Card,
    alive: int,
    query: int,
    ffn: int,
    scores: float,
    size: int = 2,
) -> float:
    """Seconds of one decoder layer; arguments as ``saccade.measure.roofline.rows_seconds``."""
    device = on.reached
    products = rows_seconds(shape, alive, query, ffn, scores, size, device)
    touched = PASSES_HIDDEN * shape.hidden * max(query, ffn, alive // 2) + PASSES_FFN * shape.ffn * ffn
    return max(on.layer_s, products + size * touched / device.bytes_per_s)


def around_seconds(shape: ModelShape, on: Card, eye: Eye, batch: int = 1, size: int = 2) -> float:
    """Seconds of a prefill beside its layers: the vision tower, the head on the last rows, the host."""
    device = on.reached
    tower = max(eye.flops * batch / device.flops_per_s,
                size * eye.parameters / device.bytes_per_s)  # fmt: skip
    head = max(2 * shape.hidden * shape.vocab * batch / device.flops_per_s,
               size * shape.hidden * shape.vocab / device.bytes_per_s)  # fmt: skip
    return tower + head + on.host_s


def eyes(plans: Sequence[Plan], shape: ModelShape, visual: int, cut: int | None = None) -> list[Eye]:
    """What every plan's pictures cost before the decoder: one picture of a known vision tower, else nothing.

    Args:
        plans: What is put on the model.
        shape: Sizes of the model.
        visual: Visual rows of the picture.
        cut: Views that it is cut into; as many as its rows fill if omitted.
    """
    if shape.tower is None or not visual:
        return [Eye()] * len(plans)
    image = shape.tower.views(visual, shape.views(visual, cut))
    seen = [sum(seeing_flops(plan, shape, [image]) or ()) for plan in plans]
    return [Eye(shape.tower.parameters, flops) for flops in seen]


def predicted(
    shape: ModelShape, routes: Sequence[Route], on: str, eyes: Sequence[Eye] = (), size: int = 2
) -> list[dict[str, float]]:
    """Predicted times of several routes on a device, each beside the first.

    Args:
        shape: Sizes of the decoder.
        routes: The programs; the first is what ratios are of.
        on: The device by name.
        eyes: What pictures cost before the decoder, for every route; left out if empty.
        size: Bytes per number.

    Returns:
        ``seconds`` to the first token and ``ratio`` of every route.

    Raises:
        ValueError: If the device is not known.
    """
    device = card(on)
    pairs = zip(routes, eyes or [Eye()] * len(routes), strict=True)
    seconds = [prefill_seconds(shape, route, device, eye, size) for route, eye in pairs]
    return [{"seconds": each, "ratio": each / seconds[0]} for each in seconds]


def prefill_seconds(shape: ModelShape, route: Route, on: Card, eye: Eye, size: int = 2) -> float:
    """Seconds to the first token under a route.

    Args:
        shape: Sizes of the decoder.
        route: The program of its layers, for the whole batch.
        on: The device.
        eye: The vision tower and what it looks at; ``Eye()`` leaves it out.
        size: Bytes per number.
    """
    layout, total = route.layout, 0.0
    memo: dict[tuple[int, LayerShape], float] = {}
    for layer, one in zip(route.layers, shape.each_layer, strict=True):
        if (id(layer), one) not in memo:
            alive, query, ffn = (int(s.sum()) for s in (layer.alive_BN, layer.query_BN, layer.ffn_BN))
            mixing = mixing_flops(one, layer, layout)
            memo[id(layer), one] = layer_seconds(one, on, alive, query, ffn, mixing, size)
        total += memo[id(layer), one]
    asked = sum(scoring_flops(shape, scoring, layout.batch) for scoring in route.scorings)
    return total + asked / on.reached.flops_per_s + around_seconds(shape, on, eye, layout.batch, size)
