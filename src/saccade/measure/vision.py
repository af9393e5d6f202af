"""Time of the vision tower and projector, which plans for the decoder do not touch."""

from __future__ import annotations

import inspect
import statistics
import time
from typing import Any

import torch
from PIL import Image

from saccade.measure.target import Target
from saccade.samples import Sample


@torch.inference_mode()
def vision_seconds(target: Target, repeats: int, side: int = 336) -> float | None:
    """Median seconds of ``get_image_features`` for one image.

    Args:
        target: A model with its processor.
        repeats: Timed calls, after one that is not.
        side: Pixels of the square image; the processor resizes it as it would any image.

    Returns:
        Seconds, or None for a model that came without its processor.
    """
    if target.loaded is None:
        return None
    from saccade.models import inputs

    image = Image.effect_mandelbrot((side, side), (-2, -1.5, 1, 1.5), 100).convert("RGB")
    sample = Sample("bench", "bench", "", (image,), "What is shown?")
    ready = inputs(target.loaded, [sample])
    core: Any = target.parts.core
    features = core.get_image_features
    wanted = inspect.signature(features).parameters
    given = {key: value for key, value in ready.items() if key in wanted and key != "input_ids"}
    seconds = []
    for _ in range(repeats + 1):
        start = _now(target)
        features(**given)
        seconds.append(_now(target) - start)
    return statistics.median(seconds[1:])


def _now(target: Target) -> float:
    device = next(target.model.parameters()).device
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
