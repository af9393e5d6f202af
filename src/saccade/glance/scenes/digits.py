"""Handwritten digits from real scans (UCI; see ``digits.md``), laid out in rows and columns."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

import numpy as np
from PIL import Image

from saccade.glance.draw import CELL, CELLS, PLAIN, Canvas, DrawnLook
from saccade.glance.scenes.base import PATCHES_PER_CELL, PatchLabels
from saccade.glance.vocabulary import COLOR_INDEX, COLOR_NAMES

# Of every ten scans: which go to which split. Disjoint, so test digits were never seen.
_RESIDUES = {"train": (0, 1, 2, 3, 4, 5, 6), "calibration": (7,), "test": (8, 9)}


@dataclass(frozen=True)
class DigitFacts:
    """A block of digits, row by row, and their colours; `scans` are indices into the UCI set."""

    rows: tuple[tuple[int, ...], ...]
    colors: tuple[tuple[str, ...], ...]
    scans: tuple[int, ...]


def originals() -> tuple[np.ndarray, np.ndarray]:
    """The scans as they were published: (1797, 8, 8) of 0 to 16, and the digit that each shows."""
    with files("saccade.glance.scenes").joinpath("digits.npz").open("rb") as stream:
        data = np.load(stream, allow_pickle=False)
        return data["scans"], data["labels"]


@lru_cache(maxsize=2)
def _uci(size: int = CELL) -> tuple[np.ndarray, np.ndarray]:
    scans, target = originals()
    scaled = np.stack(
        [
            np.asarray(
                Image.fromarray((scan * (255 / 16)).astype(np.uint8)).resize(
                    (size, size), Image.Resampling.BILINEAR
                ),
                dtype=np.float32,
            )
            / 255.0
            for scan in scans
        ]
    )
    return scaled, target.astype(int)


@lru_cache(maxsize=3)
def scans_of(split: str) -> tuple[np.ndarray, ...]:
    """Indices of the scans a split may use, grouped by digit so that digits come up equally often."""
    _, target = _uci()
    index = np.arange(len(target))
    mine = np.isin(index % 10, _RESIDUES[split])
    return tuple(index[mine & (target == digit)] for digit in range(10))


def make(
    rng: np.random.Generator, split: str, look: DrawnLook = PLAIN
) -> tuple[np.ndarray, np.ndarray, DigitFacts]:
    """Draw a block of 1 to 3 rows by 2 to 4 columns of scans."""
    scans, _ = _uci(CELL * look.scale)
    pools = scans_of(split)
    height, width = int(rng.integers(1, 4)), int(rng.integers(2, 5))
    top, left = int(rng.integers(CELLS - height + 1)), int(rng.integers(CELLS - width + 1))
    palette = rng.permutation(COLOR_NAMES)[: rng.integers(2, 9)].tolist()
    canvas = Canvas(rng, look)
    labels = PatchLabels(look)
    rows, colors, used = [], [], []
    for row in range(height):
        values, paints = [], []
        for column in range(width):
            digit = int(rng.integers(10))
            scan = int(pools[digit][rng.integers(len(pools[digit]))])
            color = palette[rng.integers(len(palette))]
            x = (left + column) * CELL + int(rng.integers(-1, 2))
            y = (top + row) * CELL + int(rng.integers(-1, 2))
            # Scans are faint at their edges; a stronger stroke keeps them readable in light colours.
            mask = np.minimum(1.0, scans[scan] * rng.uniform(1.1, 1.6))
            canvas.paste(mask, x * look.scale, y * look.scale, canvas.color(color))
            labels.cell(
                (top + row) * PATCHES_PER_CELL,
                (left + column) * PATCHES_PER_CELL,
                str(digit),
                color=COLOR_INDEX[color],
                order=column + 1,
            )
            values.append(digit)
            paints.append(color)
            used.append(scan)
        rows.append(tuple(values))
        colors.append(tuple(paints))
    return canvas.finish(), labels.finish(rng), DigitFacts(tuple(rows), tuple(colors), tuple(used))
