"""Bar charts: coloured bars over letters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from saccade.glance.draw import CELL, CELLS, IMAGE_SIZE, PATCH, PLAIN, Canvas, DrawnLook
from saccade.glance.fonts import FACES
from saccade.glance.scenes.base import PATCHES_PER_CELL, PatchLabels
from saccade.glance.vocabulary import COLOR_INDEX, COLOR_NAMES, LETTERS

MAX_VALUE = 8


@dataclass(frozen=True)
class Bar:
    """One bar: the letter under it, its colour, and its height in units."""

    letter: str
    color: str
    value: int


@dataclass(frozen=True)
class ChartFacts:
    """Bars from left to right; letters and colours differ."""

    bars: tuple[Bar, ...]


def make(
    rng: np.random.Generator, split: str, look: DrawnLook = PLAIN
) -> tuple[np.ndarray, np.ndarray, ChartFacts]:
    """Draw two to five bars; a unit is one patch high, the letters stand under the axis."""
    count = int(rng.integers(2, CELLS + 1))
    columns = np.sort(rng.choice(CELLS, count, replace=False))
    letters = rng.permutation(LETTERS)[:count].tolist()
    colors = rng.permutation(COLOR_NAMES)[:count].tolist()
    values = rng.integers(1, MAX_VALUE + 1, count)
    canvas = Canvas(rng, look)
    labels = PatchLabels(look)
    ink = canvas.ink()
    face, size = int(rng.integers(len(FACES))), int(rng.integers(11, 13))
    axis = IMAGE_SIZE - CELL
    grid = canvas.ground + (ink - canvas.ground) * 0.25
    for level in range(0, axis, 2 * PATCH):
        canvas.fill(0, level, IMAGE_SIZE, level + 1, grid)
    bars = []
    for column, letter, color, value in zip(columns, letters, colors, values, strict=True):
        x, width = int(column) * CELL, int(rng.integers(9, 14))
        top = max(0, axis - int(value) * PATCH + int(rng.integers(-1, 2)))
        left = x + (CELL - width) // 2
        canvas.fill(left, top, left + width, axis, canvas.color(color))
        canvas.character(face, letter, size, (x, axis + 2, CELL, CELL - 2), ink)
        first = (axis - int(value) * PATCH) // PATCH
        patch_column = int(column) * PATCHES_PER_CELL
        for row in range(first, axis // PATCH - 1, 2):
            labels.cell(row, patch_column, "bar", color=COLOR_INDEX[color])
        labels.cell(
            axis // PATCH, patch_column, letter, color=COLOR_INDEX[color], value=int(value)
        )  # the letter's patches come after the whole bar: they can know its colour and height
        bars.append(Bar(letter, color, int(value)))
    canvas.fill(0, axis, IMAGE_SIZE, axis + 1, ink)
    return canvas.finish(), labels.finish(rng), ChartFacts(tuple(bars))
