"""Exact match, after what does not matter has been taken off (pure)."""

from __future__ import annotations

import re
import unicodedata

_SPACE = re.compile(r"\s+")
_STOPS = ".\u3002\uff0e\uff61\u0964\u06d4\u0589\u1362"
"""Full stops: Latin, Chinese and Japanese (also wide and narrow), Devanagari, Urdu, Armenian, Ethiopic."""
_BEFORE_MARK = re.compile(r"\s+([,.;:!?])")


def normalise(text: str) -> str:
    """Lower case, composed letters (NFC), single spaces, none before punctuation, no full stop at the end."""
    text = _BEFORE_MARK.sub(r"\1", _SPACE.sub(" ", _folded(text)).strip())
    return text.rstrip(_STOPS + " ")


def is_match(prediction: str, answer: str) -> bool:
    """Whether a prediction says exactly what the reference says, after normalisation."""
    return normalise(prediction) == normalise(answer)


def similarity(prediction: str, answer: str) -> float:
    """One minus edit distance over the longer length, case and spacing aside (arXiv 1905.13648, eq. 1)."""
    edits, longest = edits_of(prediction, answer)
    return 1.0 if longest == 0 else 1 - edits / longest


def edits_of(prediction: str, answer: str) -> tuple[int, int]:
    """Edit distance and the longer length, case, spacing and composed letters (NFC) aside."""
    said, right = (" ".join(_folded(text).split()) for text in (prediction, answer))
    return edit_distance(said, right), max(len(said), len(right))


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", text.lower())


def edit_distance(a: str, b: str) -> int:
    """Levenshtein distance: fewest characters inserted, dropped or replaced to turn one into the other."""
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, start=1):
        before, row[0] = row[0], i
        for j, right in enumerate(b, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (left != right))
    return row[-1]
