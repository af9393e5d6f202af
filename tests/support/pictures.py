"""Pictures of noise, and questions about two of them, none and one."""

from __future__ import annotations

import numpy as np
from PIL import Image

from saccade.inputs.samples import Sample


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    draw = np.random.default_rng(seed)
    return Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype="uint8"))


def samples(texts: tuple[str, str, str], last: tuple[int, int] = (200, 100)) -> list[Sample]:
    """A question about two pictures, one about none, and one about a picture of this width and height."""
    shown = ((picture(90, 120), picture(80, 80)), (), (picture(*last),))
    return [Sample(id, "t", "s", images, text) for id, images, text in zip("abc", shown, texts, strict=True)]
