"""Ready-made prompts of the tiny models, for checks without a processor."""

from __future__ import annotations

from saccade.check import Prompts
from saccade.models import Loaded, wrap
from support.models import SQUARE, TALL, Segment, Tiny

SAMPLES: list[list[Segment]] = [[3, SQUARE, 5], [6], [2, SQUARE, 2, TALL, 3]]


def prompts(tiny: Tiny, samples: list[list[Segment]] = SAMPLES) -> Prompts:
    """A prompt with a picture, text alone, and a ragged batch of both and of two pictures."""
    singles = tiny.singles(samples, seed=1)
    shown = tuple(sum(isinstance(part, tuple) for part in sample) for sample in samples)
    return Prompts(singles[0], singles[1], tuple(singles), tiny.batch(samples, "left", seed=1), shown)


def loaded(tiny: Tiny) -> Loaded:
    """A tiny model as one that was loaded, without a processor."""
    return wrap(tiny.model, None, tiny.name)
