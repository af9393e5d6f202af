"""What a calibration is asked for: one method, its budget, its samples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from saccade import models
from saccade.budget import last_layers, reach_flops
from saccade.calibration.draw import Draw, check_draw
from saccade.calibration.draw import draw as draw_samples
from saccade.calibration.measures import check_direction
from saccade.calibration.probes import probe_for
from saccade.calibration.run import rows_of
from saccade.data import Entry
from saccade.layout import Layout
from saccade.methods import LayerMethod, Method
from saccade.methods.vtw import VTW
from saccade.plan import Plan
from saccade.samples import Sample


def check_request(
    method: str | Method,
    budget: int | None,
    flops: float | None,
    score: str | None,
    direction: str,
    draw: str,
) -> None:
    """Refuses what ``calibrate`` would refuse, before a model is loaded.

    Raises:
        ValueError: Saying what does not fit.
    """
    probe_for(wanted_method(method, budget, flops), score)
    check_direction(direction)
    check_draw(draw)


def wanted_method(method: str | Method, budget: int | None, flops: float | None) -> Method:
    """The one method that is asked for, with its budget or FLOPs ratio but without layers.

    Raises:
        ValueError: If there are several, its layers are known, or its budget is missing or given twice.
    """
    methods = Plan.of(method).methods
    if len(methods) != 1:
        raise ValueError(f"one method is calibrated at a time, got {len(methods)}: {Plan.of(method).spec}")
    wanted = methods[0]
    if wanted.is_resolved or getattr(wanted, "preset", None):
        raise ValueError(f"{wanted} knows its layers already; give {wanted.name} with a budget or flops")
    if budget is not None or flops is not None:
        if sum(given is not None for given in (wanted.budget, wanted.flops, budget, flops)) > 1:
            raise ValueError(f"{wanted.name}: give one budget or one FLOPs ratio")
        wanted = wanted.with_budget(budget) if budget is not None else _with_flops(wanted, flops)
    if isinstance(wanted, LayerMethod) and wanted.budget is None and wanted.flops is None:
        raise ValueError(f"{wanted.name}: give a budget (how many layers) or a FLOPs ratio to reach")
    return wanted


def _with_flops(method: Method, flops: float | None) -> Method:
    return VTW(flops=flops) if isinstance(method, VTW) else replace(method, budget=None, flops=flops)


def reach(loaded: models.Loaded, method: Method, samples: Sequence[Sample]) -> Method:
    """Turns a FLOPs ratio into a budget; what a route costs does not hang on which layers it touches.

    Raises:
        ValueError: If no budget reaches the ratio.
    """
    counts = [rows_of(loaded.model, models.inputs(loaded, [sample])) for sample in samples]
    prompts = dict.fromkeys(counts)
    plan = reach_flops(
        Plan((method,)),
        loaded.shape,
        [Layout.single(visual, text) for visual, text in prompts],
        last_layers(loaded.shape.layers),
        [float(counts.count(prompt)) for prompt in prompts],
    )
    done = plan.methods[0]
    used = loaded.shape.layers - done.layer if isinstance(done, VTW) and done.layer is not None else None
    return method.with_budget(len(done.layers or ()) if isinstance(done, LayerMethod) else used or 0)


def choose(samples: Iterable[Sample | Entry], num_samples: int | None, draw: Draw, seed: int) -> list[Sample]:
    """Draws samples, or takes all; of entries of a file only those drawn are decoded.

    Raises:
        ValueError: If there are none, or fewer than asked for.
    """
    pool = list(samples)
    if not pool:
        raise ValueError("there are no samples to calibrate on")
    drawn = pool if num_samples is None else draw_samples(pool, num_samples, draw, seed)
    return [item.load() if isinstance(item, Entry) else item for item in drawn]
