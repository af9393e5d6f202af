"""Which meter a tuning counts with: FLOPs, KV cache, time measured here, or time predicted elsewhere."""

from __future__ import annotations

from collections.abc import Callable

import torch

from saccade import models
from saccade.core.cards import Card, card
from saccade.core.pricing import scoring_flops
from saccade.core.shapes import ModelShape
from saccade.core.stages import Scoring
from saccade.inputs.samples import Sample
from saccade.measure.devices import Eye, around_seconds, eyes, layer_seconds
from saccade.models import Loaded
from saccade.plans.plan import Plan
from saccade.system.journal import Journal
from saccade.tuning.price import CacheMeter, FlopsMeter, Meter, Rows, at_size
from saccade.tuning.settings import Settings
from saccade.tuning.timing import timed


def meter_of(loaded: Loaded, settings: Settings, sample: Sample, journal: Journal | None = None) -> Meter:
    """The meter for what is asked.

    Args:
        loaded: The model.
        settings: What is asked.
        sample: A question with an image, for times.
        journal: Keeps what was timed; its owner finishes it.

    Raises:
        ValueError: If the device is not known.
    """
    if settings.cost == "kv":
        return CacheMeter()
    if settings.cost == "flops":
        return FlopsMeter(loaded.shape)
    if settings.on is not None:
        return PredictedMeter(loaded.shape, card(settings.on), settings.on, eye_of(loaded, sample))
    return timed(loaded, sample, journal=journal)


class PredictedMeter(Meter):
    """Seconds to the first token on a device that is not here, at batch 1 in 16 bits."""

    def __init__(self, shape: ModelShape, on: Card, name: str, eye: Eye | None = None) -> None:
        """Prepares it.

        Args:
            shape: Sizes of the model.
            on: The device.
            name: What the device is called.
            eye: What every prompt's images cost; by their rows if None, which a lower resolution makes fewer.
        """
        self.shape, self.on, self.eye, self.name = shape, on, eye, f"time on {name}"

    def layer(self, rows: Rows) -> float:
        one = rows.size or self.shape.each_layer[0]
        mixing = 4.0 * one.query_width * rows.pairs
        mixing += 0 if one.recurrent is None else one.recurrent.chunk_flops(rows.alive)
        return layer_seconds(one, self.on, rows.alive, rows.asking, rows.fed, mixing)

    def scoring(self, scoring: Scoring) -> float:
        return scoring_flops(self.shape, scoring) / self.on.reached.flops_per_s

    def prompt(self, visual: int, text: int, plan: Plan) -> float:
        eye = eyes([at_size(plan)], self.shape, visual)[0] if self.eye is None else self.eye
        return around_seconds(self.shape, self.on, eye)


def eye_of(loaded: Loaded, sample: Sample) -> Eye | None:
    """What the image of a sample costs before the decoder, where the tower's sizes are not known; else None.

    By its weights: all outside the decoder, once for every patch.
    """
    if loaded.shape.tower is not None:
        return None
    parts = loaded.family.parts(loaded.model)
    outside: Callable[[torch.nn.Module], int] = lambda module: sum(p.numel() for p in module.parameters())  # noqa: E731
    parameters = outside(parts.core) - outside(parts.decoder)
    inputs = models.inputs(loaded, [sample])
    patches = int(loaded.family.visual_mask(loaded.model, inputs["input_ids"]).sum())
    return Eye(float(parameters), 2.0 * parameters * patches)
