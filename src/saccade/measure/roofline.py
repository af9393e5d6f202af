"""The least time a prefill could take on a device: every matrix product at its roofline.

A product of few rows is bound by reading its weights, so halving its FLOPs need not halve its time. Counted
are the decoder's matrix products and attention; norms, activations and rotary positions are not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from saccade.core.cards import Device
from saccade.core.layout import Layout
from saccade.core.pricing import mixing_flops
from saccade.core.route import LayerRoute, Route
from saccade.core.shapes import LayerShape, ModelShape
from saccade.measure.clock import now


@dataclass(frozen=True)
class Roofline:
    """Least times of a prefill beside the rates they follow from.

    Attributes:
        device: What the device reaches.
        dense_s: Least seconds of the stock model.
        plan_s: Least seconds of the plan.
        time_ratio: ``plan_s / dense_s``: what no implementation can beat on this device.
        captured: Share of the FLOPs saving that this ratio leaves; None where no FLOPs are saved.
    """

    device: Device
    dense_s: float
    plan_s: float
    time_ratio: float
    captured: float | None


def roofline(shape: ModelShape, route: Route, size: int, device: Device, flops_ratio: float) -> Roofline:
    """Least times of a route and of the stock model.

    Args:
        shape: Sizes of the decoder.
        route: The plan's program for the batch.
        size: Bytes per number.
        device: What the device reaches.
        flops_ratio: Executed FLOPs of the route over those of the stock model.
    """
    layout = route.layout
    dense = Route.dense(layout, 1).layers[0]
    each = list(zip(route.layers, shape.each_layer, strict=True))
    plan_s = sum(layer_seconds(one, layer, layout, size, device) for layer, one in each)
    dense_s = sum(layer_seconds(one, dense, layout, size, device) for _, one in each)
    ratio = plan_s / dense_s
    captured = None if abs(1 - flops_ratio) < 1e-9 else (1 - ratio) / (1 - flops_ratio)
    return Roofline(device, dense_s, plan_s, ratio, captured)


def layer_seconds(
    shape: LayerShape,
    layer: LayerRoute,
    layout: Layout,
    size: int,
    device: Device,
) -> float:
    """Least seconds of one layer: each product takes its arithmetic or its traffic, whichever is longer."""
    alive, query, ffn = (int(s.sum()) for s in (layer.alive_BN, layer.query_BN, layer.ffn_BN))
    return rows_seconds(shape, alive, query, ffn, mixing_flops(shape, layer, layout), size, device)


def rows_seconds(
    shape: LayerShape, alive: int, query: int, ffn: int, scores: float, size: int, device: Device
) -> float:
    """Least seconds of one layer by its rows.

    Args:
        shape: Sizes of the layer.
        alive: Rows with K and V, over the batch.
        query: Rows that attend.
        ffn: Rows that pass the FFN.
        scores: FLOPs of attention itself (scores and weighted sums), or of a recurrent layer's chunks.
        size: Bytes per number.
        device: What the device reaches.
    """
    d, dq, dk, m = shape.hidden, shape.query_width, shape.kv_width, shape.ffn
    mixer, traffic = shape.recurrent, size * 2 * (alive * dk + query * dq)
    if mixer is None:
        wide = 2 * dq if shape.gated else dq
        products = [(query, d, wide), (alive, d, dk), (alive, d, dk), (query, dq, d)]
    else:
        traffic = size * 2 * alive * (mixer.mixed_width + mixer.value_width)
        products = [(alive, *matrix) for matrix in mixer.matrices(d)]
    products += [(ffn, d, m)] * (shape.ffn_matrices - 1) + [(ffn, m, d)]
    if shape.experts is not None:
        products.append((ffn, d, shape.experts.routing))
    total = 0.0
    for rows, into, out in products:
        moved = size * (into * out + rows * (into + out)) if rows else 0
        total += max(2 * rows * into * out / device.flops_per_s, moved / device.bytes_per_s)
    # Rows that pass different experts read the weights of each: of all of them, once rows are many.
    others = min(shape.ffn_held, ffn * shape.ffn) - m if ffn else 0
    total += size * shape.ffn_matrices * d * others / device.bytes_per_s
    return total + max(scores / device.flops_per_s, traffic / device.bytes_per_s)


def probe(device: torch.device, dtype: torch.dtype, repeats: int = 5) -> Device:
    """Measures what a device reaches: the best of some large products and copies."""
    side = 8192 if device.type == "cuda" else 2048
    a = torch.randn(side, side, device=device).to(dtype)
    b = a.t().contiguous()
    source = torch.zeros(2**28 if device.type == "cuda" else 2**26, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    product = _best(lambda: torch.mm(a, b), device, repeats)
    copy = _best(lambda: target.copy_(source), device, repeats)
    return Device(2 * side**3 / product, 2 * source.numel() / copy)


def _best(call: Callable[[], Any], device: torch.device, repeats: int) -> float:
    seconds = []
    for _ in range(repeats + 1):
        start = now(device)
        call()
        seconds.append(now(device) - start)
    return min(seconds[1:])
