"""What a sentence of a model says: an option's letter, yes or no, a number (pure)."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

_DRESS = r"[\s*_`\"'(\[{<]*"
_UNDRESS = r"[\s*_`\"')\]}>.,:;!]*"
# "A cat" and "I think" are words, not letters; "A is right" and "A or B" speak of letters.
_WORD = r"(?!(?:A|I)\s+(?!(?:or|and|is|because|since)\b)[a-z])"
_CAPITAL = rf"{_WORD}([A-Z])(?!\w|'\w)"
# After "the answer is" a small "a" or "i" counts only if marked as a letter, for it may begin a phrase.
_SMALL = (
    r"([b-hj-z])(?!\w|'\w|\.\w)"
    r"|([ai])(?:[)\]*'\"]|\s*[.,;]?\s*$|(?=\s+(?:because|since)\b))"
)
_LETTER = rf"{_DRESS}(?:{_CAPITAL}|{_SMALL})"
_LETTER_ALONE = re.compile(rf"{_DRESS}([A-Za-z]){_UNDRESS}")
_LETTER_ANSWERED = re.compile(
    rf"(?i:\banswer\b(?:\s+is\b)?\s*:?|\b(?:option|choice)\b\s*(?:is\b\s*:?|:))\s*{_LETTER}"
)
_LETTER_NAMED = re.compile(rf"(?i:\b(?:option|choice)s?\b)\s*{_DRESS}(?:([A-Z])(?!\w|'\w)|{_SMALL})")
_LETTER_OTHER = re.compile(rf"[\s*_`\"')\]}}>,]*(?:\b(?:or|and)\b|[/&])\s*{_LETTER}")
_LETTER_FIRST = re.compile(r"\s*(?:[\[(*]+([A-Za-z])[\])*]+|([A-Za-z])[).:])(?=\s|$|[.:)*])")
_LETTER_BRACKETED = re.compile(r"[(\[]([A-Za-z])[)\]]")
_LETTER_LOOSE = re.compile(rf"(?<![\w.])(?<!\w'){_CAPITAL}")

_YES_NO = re.compile(r"\b(yes|no)\b", re.IGNORECASE)

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
_NUMBER = re.compile(
    r"(?<![\w.,])(?:([-+\u2212])(\s?))?[$\u20ac\u00a3]?\s?" rf"({_DIGITS})(?![.,]?\d)\s*(%|percent\b)?"
)
_NUMBER_NAMED = re.compile(r"(?:\banswer\b(?:\s+is)?\s*:?|=)\s*(?=\D{0,12}\d)", re.IGNORECASE)


def option_letter(text: str) -> str | None:
    """The option a text chooses, as a capital letter; None where it chooses none, or several.

    Read in this order: the letter alone ("B", "(B)", "b."), the answer ("the answer is B", "option: B"), an
    option that is named ("option B"), in front with a mark ("B. a dog", "(B) a dog"), in brackets, or the
    only capital letter that stands alone. Where there are several answers, or options, the last counts; one
    that is two letters ("the answer is A or B") chooses none.
    """
    alone = _LETTER_ALONE.fullmatch(text)
    if alone:
        return alone[1].upper()
    for pattern in (_LETTER_ANSWERED, _LETTER_NAMED):
        named = list(pattern.finditer(text))
        if named:
            last = named[-1]
            letter = "".join(filter(None, last.groups())).upper()
            other = _LETTER_OTHER.match(text, last.end())
            same = other is None or "".join(filter(None, other.groups())).upper() == letter
            return letter if same else None
    first, bracketed = _LETTER_FIRST.match(text), {each.upper() for each in _LETTER_BRACKETED.findall(text)}
    if first and len(bracketed) < 2:
        return (first[1] or first[2]).upper()
    for pattern in (_LETTER_BRACKETED, _LETTER_LOOSE):
        found = {letter.upper() for letter in pattern.findall(text)}
        if found:
            return found.pop() if len(found) == 1 else None
    return None


def yes_or_no(text: str) -> str | None:
    """``"yes"`` or ``"no"``, whichever word comes first; None where neither does."""
    found = _YES_NO.search(text)
    return found[1].lower() if found else None


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
    """The number a text gives, be it with thousands' marks, currency or percent sign; None if it has none.

    Of several, the one after "answer is" or "=" counts, else the first. A minus with a space behind it is a
    bullet or a dash, save right after "is" or "=".
    """
    named = list(_NUMBER_NAMED.finditer(text))
    found = (_NUMBER.search(text, named[-1].end()) if named else None) or _NUMBER.search(text)
    if found is None:
        return None
    sign, space, digits, percent = found.groups()
    told = bool(named) and named[-1].end() == found.start() and named[-1][0].rstrip().endswith(("=", "is"))
    value = float(_plain(digits)) * (-1 if sign in ("-", "\u2212") and (told or not space) else 1)
    return Quantity(value, percent is not None) if math.isfinite(value) else None


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

    Where one has a percent sign and the other has not, "12 %" is both 12 and 0.12.
    """
    values = {said.value}
    if said.percent != right.percent:
        values.add(said.value / 100 if said.percent else said.value * 100)
    slack = tolerance * abs(right.value) + 1e-9 * max(1.0, abs(right.value))
    return any(abs(value - right.value) <= slack for value in values)
