"""Questions about printed text and handwritten digits."""

from __future__ import annotations

import numpy as np

from saccade.glance.questions.base import Question, coin, once
from saccade.glance.scenes.digits import DigitFacts
from saccade.glance.scenes.text import TextFacts


def text(facts: TextFacts, rng: np.random.Generator) -> list[Question]:
    """Read a line, found by its colour or by its place; answers are spelled, one token a character."""
    out = []
    for index, line in enumerate(facts.lines):
        ways = [("color", f"read the {line.color} {line.kind}")]
        if index == 0:
            ways.append(("place", "read the top line"))
        if index == len(facts.lines) - 1:
            ways.append(("place", "read the bottom line"))
        for subtask, question in ways:
            out.append(Question(line.kind, subtask, question, " ".join(line.characters)))
    return out


def digits(facts: DigitFacts, rng: np.random.Generator) -> list[Question]:
    """One handwritten digit by row and column or by colour, a whole row, or the largest of a row."""
    row, column = int(rng.integers(len(facts.rows))), int(rng.integers(len(facts.rows[0])))
    where = f"row {row + 1} column {column + 1}"
    out = [Question("digit", "place", f"what digit is in {where} ?", str(facts.rows[row][column]))]
    flat = [
        (c, d) for cs, ds in zip(facts.colors, facts.rows, strict=True) for c, d in zip(cs, ds, strict=True)
    ]
    single = once(color for color, _ in flat)
    for color in [single[i] for i in rng.permutation(len(single))[:2]]:
        out.append(Question("digit", "color", f"what is the {color} digit ?", str(dict(flat)[color])))
    for index in rng.permutation(len(facts.rows))[:2].tolist():
        values = facts.rows[index]
        if coin(rng):
            question = f"read row {index + 1}"
            out.append(Question("digit", "row", question, " ".join(map(str, values))))
        elif rng.random() < _keep_largest(max(values)):
            question = f"what is the largest digit in row {index + 1} ?"
            out.append(Question("digit", "largest", question, str(max(values))))
    return out


def _keep_largest(value: int) -> float:
    """Large maxima are common; asking about them less often balances the answers."""
    return 1.0 if value <= 5 else 1.0 - 0.12 * (value - 5)
