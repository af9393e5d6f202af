"""Scores of layers, measured prompt by prompt with replay, and what that saved against brute force."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from saccade.calibration.measures import Direction
from saccade.calibration.probes import Probe
from saccade.core.pricing import executed_flops
from saccade.core.route import Route
from saccade.core.shapes import ModelShape
from saccade.engine import apply, attached
from saccade.engine.replay import Replay, Replayer, replaying
from saccade.families import find
from saccade.methods import Method
from saccade.plans.plan import Plan

TIMING_SECONDS = 2.0
"""Pairs of timed runs are repeated within about this time, three pairs at most."""


@dataclass(frozen=True)
class TriedLayers:
    """Scores of one prompt.

    Attributes:
        values: Score of every layer; all 0 for a prompt without visual rows, which no method changes.
        visual: Visual rows of the prompt.
        text: Other rows, those of an appended answer among them.
    """

    values: tuple[float, ...]
    visual: int
    text: int


def decides(model: nn.Module) -> bool:
    """Whether a plan that belongs to the model decides on the way, which replay cannot follow."""
    own = attached(model)
    return own is not None and own.decides


def rows_of(model: nn.Module, inputs: Mapping[str, Any]) -> tuple[int, int]:
    """Visual and other rows of one prompt without padding."""
    visual = int(find(model).visual_mask(model, inputs["input_ids"]).sum())
    return visual, inputs["input_ids"].numel() - visual


def routes(replay: Replay, probe: Probe, num_layers: int, like: Method | None = None) -> list[Route]:
    """The route that a score tries at each layer, for a recorded prompt."""
    return [probe.at(layer, like).route(replay.layout, num_layers) for layer in range(num_layers)]


def try_layers(
    replayer: Replayer,
    inputs: Mapping[str, Any],
    probe: Probe,
    direction: Direction,
    like: Method | None = None,
    tail: int = 1,
) -> TriedLayers:
    """Scores every layer on one prompt: one dense forward, then each layer from where it first differs.

    Args:
        replayer: Of the model.
        inputs: One prompt, with the tokens of an answer appended if later ones are to be scored.
        probe: The score.
        direction: Of the KL.
        like: A method whose further options are kept.
        tail: How many rows at the end are read: the last one of the prompt and those appended.

    Raises:
        ValueError: If logits are not finite.
    """
    num_layers = len(replayer.attachment.parts.layers)
    visual, text = rows_of(replayer.model, inputs)
    if not visual:
        return TriedLayers((0.0,) * num_layers, visual, text)
    replay = replayer.record(inputs, tail)
    if not bool(torch.isfinite(replay.logits_TV).all()):
        raise ValueError("the model's logits are not finite even without a plan; check its weights and dtype")
    tried_LTV = torch.stack([replay.logits(route) for route in routes(replay, probe, num_layers, like)])
    return TriedLayers(_read(probe, replay.logits_TV, tried_LTV, direction), visual, text)


def brute_force(
    model: nn.Module,
    inputs: Mapping[str, Any],
    probe: Probe,
    direction: Direction,
    like: Method | None = None,
    tail: int = 1,
) -> tuple[float, ...]:
    """The same scores by a full forward under each layer's plan, vision tower included."""
    family = find(model)
    num_layers = len(family.parts(model).layers)

    def forward(plan: Plan) -> torch.Tensor:
        with torch.no_grad(), apply(model, plan):
            return model(**inputs, use_cache=False, logits_to_keep=tail).logits[0]

    full_TV = forward(Plan())
    tried_LTV = torch.stack([forward(Plan((probe.at(layer, like),))) for layer in range(num_layers)])
    return _read(probe, full_TV, tried_LTV, direction)


def _read(
    probe: Probe, full_TV: torch.Tensor, tried_LTV: torch.Tensor, direction: Direction
) -> tuple[float, ...]:
    finite = torch.isfinite(tried_LTV).flatten(1).all(dim=-1)
    if not bool(finite.all()):
        layer = int((~finite).nonzero()[0])
        raise ValueError(f"logits are not finite when {probe.method} is tried at layer {layer}; try float32")
    return tuple(probe.read(full_TV, tried_LTV, direction))


@contextmanager
def trying(model: nn.Module) -> Iterator[Callable[..., TriedLayers]]:
    """Makes a model ready for ``try_layers``, which it gives without its first argument.

    Where a plan that belongs to the model decides on the way, every layer takes a forward of its own.
    """
    if not decides(model):
        with replaying(model) as replayer:
            yield partial(try_layers, replayer)
        return

    def whole(inputs: Mapping[str, Any], *how: Any, **more: Any) -> TriedLayers:
        return TriedLayers(brute_force(model, inputs, *how, **more), *rows_of(model, inputs))

    yield whole


def flops(replay: Replay, shape: ModelShape, tried: Sequence[Route]) -> tuple[int, int]:
    """Decoder FLOPs (vision tower aside) of the replays and of brute force, the dense forward in both."""
    head = 2 * shape.hidden * shape.vocab * replay.tail

    def forward(route: Route) -> int:
        each = list(zip(route.layers, shape.each_layer, strict=True))
        known = {one: executed_flops(one[1], one[0], replay.layout) for one in dict.fromkeys(each)}
        return head + sum(known[one] for one in each)

    dense = forward(Route.dense(replay.layout, shape.layers))
    return dense + sum(replay.flops(shape, route) for route in tried), dense + sum(map(forward, tried))


def compare(
    model: nn.Module,
    inputs: Mapping[str, Any],
    probe: Probe,
    direction: Direction,
    shape: ModelShape,
    like: Method | None = None,
    tail: int = 1,
) -> dict[str, Any]:
    """Measures replay against brute force on one prompt with visual rows.

    Returns:
        ``flops_ratio`` (decoder), ``seconds_ratio`` (vision tower included), the figures they come from, and
        the largest difference between the scores of both.
    """
    with replaying(model) as replayer:
        replay = replayer.record(inputs, tail)
        counted = flops(replay, shape, routes(replay, probe, shape.layers, like))
    del replay

    def quick() -> tuple[float, ...]:
        with replaying(model) as replayer:
            return try_layers(replayer, inputs, probe, direction, like, tail).values

    def slow() -> tuple[float, ...]:
        return brute_force(model, inputs, probe, direction, like, tail)

    pairs: list[tuple[float, float]] = []
    while not pairs or (len(pairs) < 3 and sum(map(sum, pairs)) < TIMING_SECONDS):
        (fast_values, fast), (slow_values, brute) = _timed(quick, inputs), _timed(slow, inputs)
        pairs.append((fast, brute))
    return {
        "flops_ratio": counted[0] / counted[1],
        "replay_flops": counted[0],
        "brute_force_flops": counted[1],
        "seconds_ratio": statistics.median(a / b for a, b in pairs),
        "replay_seconds": statistics.median(a for a, _ in pairs),
        "brute_force_seconds": statistics.median(b for _, b in pairs),
        "largest_difference": max(abs(a - b) for a, b in zip(fast_values, slow_values, strict=True)),
    }


def _timed(
    run: Callable[[], tuple[float, ...]], inputs: Mapping[str, Any]
) -> tuple[tuple[float, ...], float]:
    device = inputs["input_ids"].device
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    values = run()  # its scores are read on the CPU, so the device is done when it returns
    return values, time.perf_counter() - start
