"""Drawing on a small canvas with cached alpha masks; an image takes a fraction of a millisecond."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from saccade.glance.fonts import glyph
from saccade.glance.vocabulary import COLORS

IMAGE_SIZE = 80
PATCH = 8
CELL = 16
GRID = IMAGE_SIZE // PATCH  # patches a side
CELLS = IMAGE_SIZE // CELL  # cells a side; a cell is 2 x 2 patches
_OVERSAMPLE = 8


@dataclass(frozen=True)
class DrawnLook:
    """How the same scenes are drawn; scenes are planned on Glance's canvas of 80 by 80 pixels.

    Attributes:
        scale: Pixels of the picture to a pixel of the plan, each way; patches stay 8 pixels wide.
        texture: Whether the background has a texture, which means nothing.
        whole: Whether every patch of a thing is labelled with what the thing is, as a tower that mixes
            patches can know it; else the last patches in reading order are.
    """

    scale: int = 1
    texture: bool = False
    whole: bool = False

    @property
    def side(self) -> int:
        """Patches a side."""
        return GRID * self.scale


PLAIN = DrawnLook()
LARGE = DrawnLook(scale=2, texture=True, whole=True)
SMALL = DrawnLook(scale=1, texture=True, whole=True)
LOOKS = {look.scale: look for look in (PLAIN, LARGE)}
"""How scenes are drawn for the embedded models, by the scale of their pictures."""


@lru_cache(maxsize=256)
def shape_mask(shape: str, size: int) -> np.ndarray:
    """Alpha mask of a shape, `size` pixels wide, anti-aliased."""
    s = size * _OVERSAMPLE
    image = Image.new("L", (s, s), 0)
    pen = ImageDraw.Draw(image)
    end = s - 1
    if shape == "circle":
        pen.ellipse((0, 0, end, end), fill=255)
    elif shape == "ring":
        pen.ellipse((0, 0, end, end), fill=255)
        hole = s * 0.29
        pen.ellipse((hole, hole, end - hole, end - hole), fill=0)
    elif shape == "square":
        edge = s * 0.06
        pen.rectangle((edge, edge, end - edge, end - edge), fill=255)
    elif shape == "triangle":
        pen.polygon(((s / 2, 0), (end, s * 0.94), (0, s * 0.94)), fill=255)
    elif shape == "diamond":
        pen.polygon(((s / 2, 0), (end, s / 2), (s / 2, end), (0, s / 2)), fill=255)
    elif shape == "cross":
        arm = s * 0.34
        pen.rectangle((arm, 0, end - arm, end), fill=255)
        pen.rectangle((0, arm, end, end - arm), fill=255)
    else:
        raise ValueError(f"unknown shape {shape!r}")
    return _shrink(image, size, size)


@lru_cache(maxsize=16)
def arrow_mask(direction: str, size: int = CELL) -> np.ndarray:
    """Alpha mask of an arrow that fills the gap between two boxes, pointing where it says."""
    s = size * _OVERSAMPLE
    image = Image.new("L", (s, s), 0)
    pen = ImageDraw.Draw(image)
    half = s * 0.06
    pen.rectangle((s * 0.06, s / 2 - half, s * 0.7, s / 2 + half), fill=255)
    pen.polygon(((s * 0.95, s / 2), (s * 0.5, s * 0.24), (s * 0.5, s * 0.76)), fill=255)
    turns = {"right": 0, "above": 90, "left": 180, "below": 270}[direction]
    return _shrink(image.rotate(turns), size, size)


def _shrink(image: Image.Image, width: int, height: int) -> np.ndarray:
    mask = np.asarray(image.resize((width, height), Image.Resampling.BOX), dtype=np.float32) / 255.0
    mask.setflags(write=False)
    return mask


def _texture(rng: np.random.Generator, size: int) -> np.ndarray:
    """Slow waves of light, and on half of the pictures fine stripes; size x size x 1, around 0."""
    coarse = Image.fromarray(rng.normal(size=(5, 5)).astype(np.float32))
    field = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC)) * np.float32(rng.uniform(0, 6))
    if rng.random() < 0.5:
        angle, period = rng.uniform(0, np.pi), rng.uniform(5, 40)
        y, x = np.mgrid[:size, :size].astype(np.float32) * (2 * np.pi / period)
        field = field + np.float32(rng.uniform(0, 6)) * np.sin(x * np.cos(angle) + y * np.sin(angle))
    return field[..., None].astype(np.float32)


class Canvas:
    """An RGB picture being drawn, in float so that pasting is one multiply-add.

    Places and sizes are those of the plan; only `paste` speaks of pixels.
    """

    def __init__(self, rng: np.random.Generator, look: DrawnLook = PLAIN) -> None:
        """Start with a light or dark background."""
        self.scale, self.size = look.scale, IMAGE_SIZE * look.scale
        self.dark = bool(rng.random() < 0.35)
        level = rng.uniform(15, 55) if self.dark else rng.uniform(205, 250)
        tint = rng.uniform(-7, 7, 3)
        self.pixels = np.empty((self.size, self.size, 3), np.float32)
        self.pixels[:] = level + tint
        self.ground = self.pixels[0, 0].copy()
        if look.texture:
            self.pixels += _texture(rng, self.size)
        self._rng = rng

    def ink(self) -> np.ndarray:
        """A neutral colour that shows on this background."""
        return np.full(3, self._rng.uniform(215, 250) if self.dark else self._rng.uniform(5, 50), np.float32)

    def color(self, name: str) -> np.ndarray:
        """A named colour with a little variation."""
        return np.clip(np.float32(COLORS[name]) + self._rng.uniform(-12, 12, 3).astype(np.float32), 0, 255)

    def shape(self, name: str, size: int, x: int, y: int, color: np.ndarray) -> None:
        """Draw a shape `size` wide with its top left corner at (x, y)."""
        self.paste(shape_mask(name, size * self.scale), x * self.scale, y * self.scale, color)

    def arrow(self, direction: str, x: int, y: int, color: np.ndarray) -> None:
        """Draw an arrow in the cell whose top left corner is (x, y)."""
        self.paste(arrow_mask(direction, CELL * self.scale), x * self.scale, y * self.scale, color)

    def character(
        self, face: int, character: str, size: int, box: tuple[int, int, int, int], color: np.ndarray
    ) -> None:
        """Draw a character in the middle of a box: x, y, width and height."""
        mask = glyph(face, character, size * self.scale)
        x, y, width, height = (number * self.scale for number in box)
        self.paste(mask, x + (width - mask.shape[1]) // 2, y + (height - mask.shape[0]) // 2, color)

    def paste(self, mask: np.ndarray, x: int, y: int, color: np.ndarray) -> None:
        """Blend `color` through `mask` with its top left pixel at (x, y), clipped to the canvas."""
        left, top = max(0, -x), max(0, -y)
        height = min(mask.shape[0], self.size - y)
        width = min(mask.shape[1], self.size - x)
        if height <= top or width <= left:
            return
        alpha = mask[top:height, left:width, None]
        region = self.pixels[y + top : y + height, x + left : x + width]
        region += alpha * (color - region)

    def fill(self, x0: int, y0: int, x1: int, y1: int, color: np.ndarray) -> None:
        """Fill the rectangle [x0, x1) x [y0, y1)."""
        x0, y0, x1, y1 = (number * self.scale for number in (x0, y0, x1, y1))
        self.pixels[max(0, y0) : y1, max(0, x0) : x1] = color

    def frame(self, x0: int, y0: int, x1: int, y1: int, color: np.ndarray) -> None:
        """Draw a one-pixel frame just inside the rectangle."""
        for box in ((x0, y0, x1, y0 + 1), (x0, y1 - 1, x1, y1), (x0, y0, x0 + 1, y1), (x1 - 1, y0, x1, y1)):
            self.fill(*box, color)

    def finish(self) -> np.ndarray:
        """Add sensor noise and return the picture as uint8."""
        noise = self._rng.integers(-5, 6, self.pixels.shape, dtype=np.int8)
        return np.clip(self.pixels + noise, 0, 255).astype(np.uint8)
