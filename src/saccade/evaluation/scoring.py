"""Exact match, after what does not matter has been taken off (pure)."""

from __future__ import annotations

import re

_SPACE = re.compile(r"\s+")
_BEFORE_MARK = re.compile(r"\s+([,.;:!?])")


def normalise(text: str) -> str:
    """Lower case, single spaces, no space before punctuation, no full stop at the end."""
    text = _BEFORE_MARK.sub(r"\1", _SPACE.sub(" ", text).strip().lower())
    return text.rstrip(".").rstrip()


def is_match(prediction: str, answer: str) -> bool:
    """Whether a prediction says exactly what the reference says, after normalisation."""
    return normalise(prediction) == normalise(answer)
