"""Labelled boxes joined by arrows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from saccade.glance.draw import CELL, PLAIN, Canvas, DrawnLook
from saccade.glance.fonts import FACES
from saccade.glance.scenes.base import PATCHES_PER_CELL, PatchLabels
from saccade.glance.vocabulary import LETTER_INDEX, LETTERS

_SIDE = 3  # boxes stand on a 3 x 3 lattice with one cell between neighbours
_STEPS = {"left": (0, -1), "right": (0, 1), "above": (-1, 0), "below": (1, 0)}


@dataclass(frozen=True)
class DiagramFacts:
    """Letters of the boxes in reading order, and the arrows as (from, to) letters, at most one from each."""

    letters: tuple[str, ...]
    arrows: tuple[tuple[str, str], ...]


def _walk(rng: np.random.Generator, places: set[int]) -> dict[int, str]:
    """Give most boxes one outgoing arrow to a neighbour; never two arrows in one gap."""
    taken: set[frozenset[int]] = set()
    heads: dict[int, str] = {}
    for place in rng.permutation(sorted(places)).tolist():
        if rng.random() < 0.1:
            continue
        for direction in rng.permutation(list(_STEPS)).tolist():
            row, column = place // _SIDE + _STEPS[direction][0], place % _SIDE + _STEPS[direction][1]
            other = row * _SIDE + column
            if not (0 <= row < _SIDE and 0 <= column < _SIDE) or other not in places:
                continue
            if frozenset((place, other)) in taken:
                continue
            taken.add(frozenset((place, other)))
            heads[place] = direction
            break
    return heads


def make(
    rng: np.random.Generator, split: str, look: DrawnLook = PLAIN
) -> tuple[np.ndarray, np.ndarray, DiagramFacts]:
    """Draw four to eight boxes and their arrows."""
    count = int(rng.integers(4, 9))
    places = sorted(rng.choice(_SIDE * _SIDE, count, replace=False).tolist())
    letters = dict(zip(places, rng.permutation(LETTERS)[:count].tolist(), strict=True))
    heads = _walk(rng, set(places))
    canvas = Canvas(rng, look)
    labels = PatchLabels(look)
    ink = canvas.ink()
    face, size = int(rng.integers(len(FACES))), int(rng.integers(9, 11))
    step = 2 * PATCHES_PER_CELL
    arrows = []
    links: dict[int, dict[str, int]] = {place: {"source": 0, "target": 0} for place in places}
    for place, direction in heads.items():
        down, right = _STEPS[direction]
        other = place + down * _SIDE + right
        row, column = place // _SIDE * step, place % _SIDE * step
        gap_row, gap_column = row + down * PATCHES_PER_CELL, column + right * PATCHES_PER_CELL
        canvas.arrow(direction, gap_column * CELL // 2, gap_row * CELL // 2, ink)
        labels.cell(gap_row, gap_column, f"arrow {direction}")
        arrows.append((letters[place], letters[other]))
        # Raster order: only the later box of the two has seen the earlier one.
        if other < place:
            links[place]["target"] = LETTER_INDEX[letters[other]]
        else:
            links[other]["source"] = LETTER_INDEX[letters[place]]
    for place in places:
        row, column = place // _SIDE * step, place % _SIDE * step
        x, y = column * CELL // 2, row * CELL // 2
        canvas.frame(x, y, x + CELL, y + CELL, ink)
        canvas.character(face, letters[place], size, (x, y, CELL, CELL), ink)
        labels.cell(row, column, letters[place], **links[place])
    return canvas.finish(), labels.finish(rng), DiagramFacts(tuple(letters[p] for p in places), tuple(arrows))
