"""Real typefaces as alpha masks: matplotlib ships the DejaVu and STIX fonts as plain files."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

FACES = (
    "DejaVuSans.ttf",
    "DejaVuSans-Bold.ttf",
    "DejaVuSerif.ttf",
    "DejaVuSerif-Bold.ttf",
    "DejaVuSansMono.ttf",
    "DejaVuSansMono-Bold.ttf",
    "STIXGeneralBol.ttf",
)


@lru_cache(maxsize=1)
def font_folder() -> Path:
    """Folder of the font files inside the installed matplotlib, found without importing pyplot."""
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf"


@lru_cache(maxsize=4096)
def glyph(face: int, character: str, size: int) -> np.ndarray:
    """Alpha mask in [0, 1] of one character, cropped to its ink.

    Args:
        face: Index into `FACES`.
        character: The character to draw.
        size: Height of a capital letter in pixels, roughly.
    """
    # Capital letters of these faces are about 0.73 em tall.
    font = ImageFont.truetype(str(font_folder() / FACES[face]), max(6, round(size / 0.73)))
    canvas = Image.new("L", (4 * size, 4 * size), 0)
    ImageDraw.Draw(canvas).text((size, size), character, fill=255, font=font)
    mask = np.asarray(canvas.crop(canvas.getbbox()), dtype=np.float32) / 255.0
    mask.setflags(write=False)
    return mask
