"""Coloured shapes scattered over a grid: the scene of most visual questions."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from saccade.glance.draw import CELL, CELLS, PLAIN, Canvas, DrawnLook
from saccade.glance.scenes.base import PATCHES_PER_CELL, PatchLabels
from saccade.glance.vocabulary import COLOR_INDEX, COLOR_NAMES, SHAPES, SIZES

MAX_OBJECTS = 8


@dataclass(frozen=True)
class Thing:
    """One object: its looks and its cell, rows and columns counted from 0."""

    shape: str
    color: str
    size: str
    row: int
    column: int

    @property
    def name(self) -> str:
        """How questions call it."""
        return f"{self.color} {self.shape}"


@dataclass(frozen=True)
class ObjectFacts:
    """All objects in reading order."""

    things: tuple[Thing, ...]


def make(
    rng: np.random.Generator, split: str, look: DrawnLook = PLAIN
) -> tuple[np.ndarray, np.ndarray, ObjectFacts]:
    """Draw a scene of 2 to `MAX_OBJECTS` objects; few colours or shapes in some, so that counts grow."""
    count = int(rng.integers(2, MAX_OBJECTS + 1))
    cells = np.sort(rng.choice(CELLS * CELLS, count, replace=False))
    colors = rng.permutation(COLOR_NAMES)[: rng.choice((2, 3, 5, 8))].tolist()
    shapes = rng.permutation(SHAPES)[: rng.choice((2, 3, 6))].tolist()
    things = tuple(
        Thing(
            shape=shapes[rng.integers(len(shapes))],
            color=colors[rng.integers(len(colors))],
            size=SIZES[rng.integers(2)],
            row=int(cell) // CELLS,
            column=int(cell) % CELLS,
        )
        for cell in cells
    )
    canvas = Canvas(rng, look)
    labels = PatchLabels(look)
    by_color: Counter[str] = Counter()
    by_shape: Counter[str] = Counter()
    for rank, thing in enumerate(things, start=1):
        pixels = int(rng.integers(14, 17)) if thing.size == "large" else int(rng.integers(9, 11))
        slack = CELL - pixels
        # Small objects stay near the middle of their cell, so that each spans several patches.
        low, high = (0, slack) if slack <= 2 else (slack // 2 - 1, slack // 2 + 2)
        x = thing.column * CELL + int(rng.integers(low, high + 1))
        y = thing.row * CELL + int(rng.integers(low, high + 1))
        canvas.shape(thing.shape, pixels, x, y, canvas.color(thing.color))
        by_color[thing.color] += 1
        by_shape[thing.shape] += 1
        labels.cell(
            thing.row * PATCHES_PER_CELL,
            thing.column * PATCHES_PER_CELL,
            content=thing.shape,
            color=COLOR_INDEX[thing.color],
            size=SIZES.index(thing.size) + 1,
            order=rank,
            same_color=by_color[thing.color],
            same_shape=by_shape[thing.shape],
        )
    return canvas.finish(), labels.finish(rng), ObjectFacts(things)
