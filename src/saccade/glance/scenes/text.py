"""Lines of random letters or digits in real fonts. Random, so that nothing can be memorised."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from saccade.glance.draw import CELL, CELLS, PATCH, PLAIN, Canvas, DrawnLook
from saccade.glance.fonts import FACES
from saccade.glance.scenes.base import PatchLabels
from saccade.glance.vocabulary import COLOR_INDEX, COLOR_NAMES, DIGITS, LETTERS


@dataclass(frozen=True)
class TextLine:
    """One line of text: a ``"word"`` of letters or a ``"number"`` of digits."""

    kind: str
    characters: str
    color: str


@dataclass(frozen=True)
class TextFacts:
    """The lines from top to bottom; colours differ."""

    lines: tuple[TextLine, ...]


def make(
    rng: np.random.Generator, split: str, look: DrawnLook = PLAIN
) -> tuple[np.ndarray, np.ndarray, TextFacts]:
    """Draw one to three lines of three to five characters, each line in its own colour and font."""
    count = int(rng.integers(1, 4))
    rows = np.sort(rng.choice(CELLS, count, replace=False))
    colors = rng.permutation(COLOR_NAMES)[:count].tolist()
    canvas = Canvas(rng, look)
    labels = PatchLabels(look)
    lines = []
    for row, color in zip(rows, colors, strict=True):
        kind = "word" if rng.random() < 0.55 else "number"
        alphabet = LETTERS if kind == "word" else DIGITS
        length = int(rng.integers(3, CELLS + 1))
        text = "".join(alphabet[i] for i in rng.integers(len(alphabet), size=length))
        face, size = int(rng.integers(len(FACES))), int(rng.integers(12, 14))
        start = int(rng.integers(0, (CELLS - length) * 2 + 1))  # in patches: lines start anywhere
        paint = canvas.color(color)
        for index, character in enumerate(text):
            patch_column = start + index * (CELL // PATCH)
            x = patch_column * PATCH + int(rng.integers(-1, 2))
            canvas.character(face, character, size, (x, int(row) * CELL, CELL, CELL), paint)
            labels.cell(
                int(row) * (CELL // PATCH), patch_column, character, color=COLOR_INDEX[color], order=index + 1
            )
        lines.append(TextLine(kind, text, color))
    return canvas.finish(), labels.finish(rng), TextFacts(tuple(lines))
