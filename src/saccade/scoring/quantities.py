"""The number that a sentence of a model gives, and when two numbers are the same (pure)."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

_SPACES = " \u00a0\u202f"
_DIGITS = "|".join(
    (
        r"\d{1,3}(?:,\d{3})+(?:\.\d+)?",  # 1,234,567.8
        r"\d{1,2}(?:,\d{2})+,\d{3}(?:\.\d+)?",  # 12,34,567
        r"\d{1,3}(?:\.\d{3})+,\d+",  # 1.234,5
        r"\d{1,3}(?:\.\d{3}){2,}",  # 1.234.567
        rf"\d{{1,3}}(?:[{_SPACES}]\d{{3}})+(?:[.,]\d+)?",  # 1 234,5
        r"\d+(?:[.,]\d+)?(?:[eE][-+]?\d+)?",
        r"\.\d+",
    )
)
# "3/4" and "1 3/4", but not the date 3/4/2020.
_FRACTION = r"(?:(?P<whole>\d{1,3})\s)?(?P<over>\d{1,15})\s?/\s?(?P<under>[1-9]\d{0,14})(?!\s?/)"
_SCALES = {"thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12}
_NUMBER = re.compile(
    r"(?<![\w.,])(?:(?P<sign>[-+\u2212])(?P<space>\s?))?[$\u20ac\u00a3]?\s?"
    rf"(?:{_FRACTION}|(?P<digits>{_DIGITS}))(?![.,]?\d)"
    rf"(?:\s*(?P<scale>{'|'.join(_SCALES)})s?\b)?(?:\s*(?P<percent>%|percent\b))?",
    re.IGNORECASE,
)
_NUMBER_NAMED = re.compile(
    r"(?:\banswer\b(?:\s+is)?\s*+:?|\btotal\s+of\b(?!\s*\S+\s+and\b)|="
    r"|\b(?:total|sum|result)\b(?:(?:\s+(?!is\b)\w+){0,8}?\s+is\b|\s*+:))\s*+(?=\D{0,12}\d)",
    re.IGNORECASE,
)
_IN_TOTAL = re.compile(r"\s+(?:\w+\s+){0,3}(?:in\s+total|altogether|in\s+all)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Quantity:
    """A number as it was written.

    Attributes:
        value: The number, of "12 %" 12.
        percent: Whether a percent sign follows.
    """

    value: float
    percent: bool = False


def quantity(text: str) -> Quantity | None:
    """The number a text gives, with marks of thousands, currency, percent or a fraction; None if it has none.

    Of several, the one after the last "answer is", "total of", "sum is", "result:" or "=" counts, else one
    before "in total", else the first. "1.5 million" is 1500000 (so with thousand, billion and trillion; a
    letter such as "k" or "M" has too many other meanings), "3/4" is 0.75. A minus with a space behind it is
    a bullet or a dash, save right after "is" or "=".
    """
    named = list(_NUMBER_NAMED.finditer(text))
    found = _NUMBER.search(text, named[-1].end()) if named else None
    found = found or next(
        (each for each in _NUMBER.finditer(text) if _IN_TOTAL.match(text, each.end())), None
    )
    found = found or _NUMBER.search(text)
    if found is None:
        return None
    told = bool(named) and named[-1].end() == found.start() and named[-1][0].rstrip().endswith(("=", "is"))
    negative = found["sign"] in ("-", "\u2212") and (told or not found["space"])
    value = _size(found) * (-1 if negative else 1)
    return Quantity(value, found["percent"] is not None) if math.isfinite(value) else None


def _size(found: re.Match[str]) -> float:
    scale = _SCALES[found["scale"].lower()] if found["scale"] else 1
    if found["over"]:
        return (int(found["whole"] or 0) + int(found["over"]) / int(found["under"])) * scale
    return float(_plain(found["digits"])) * scale


def _plain(digits: str) -> str:
    """Digits as ``float`` reads them: a mark that groups is left out, a decimal comma becomes a point."""
    digits = re.sub(f"[{_SPACES}]", "", digits)
    if re.fullmatch(r"[1-9]\d{0,2}(,\d{3})+(\.\d+)?|\d{1,2}(,\d{2})+,\d{3}(\.\d+)?", digits):
        return digits.replace(",", "")
    if re.fullmatch(r"\d{1,3}(\.\d{3})+,\d+|\d{1,3}(\.\d{3}){2,}", digits):
        digits = digits.replace(".", "")
    return digits.replace(",", ".")


def same_quantity(said: Quantity, right: Quantity, tolerance: float) -> bool:
    """Whether two numbers are equal within a share of the right one.

    Where the right one is "12 %", both 12 and 0.12 say it. Where the right one has no percent sign, "12 %"
    says 12, and 0.12 only if the right one is a share (below 1): "100 %" does not say 1.
    """
    values = {said.value}
    if right.percent and not said.percent:
        values.add(said.value * 100)
    elif said.percent and not right.percent and abs(right.value) < 1:
        values.add(said.value / 100)
    slack = tolerance * abs(right.value) + 1e-9 * max(1.0, abs(right.value))
    return any(abs(value - right.value) <= slack for value in values)
