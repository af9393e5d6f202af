"""What a sentence of a model says: an option's letter, yes or no, a number (pure)."""

from __future__ import annotations

import re
from dataclasses import dataclass

_LEAD = r"\b(?:answer|option|choice)\b(?:\s+is)?\s*:?\s*"
_DRESS = r"[\s*_`\"'(\[{<]*"
_UNDRESS = r"[\s*_`\"')\]}>.,:;!]*"
_LETTER_ALONE = re.compile(rf"{_DRESS}([A-Za-z]){_UNDRESS}")
# After "the answer is" a small letter counts only if marked as one, for "a" may begin a phrase.
_LETTER_NAMED = re.compile(rf"(?i:{_LEAD}){_DRESS}(?:([A-Z])(?![\w'])|([a-z])(?:[)\]*]|\s*[.,;]?\s*$))")
_LETTER_FIRST = re.compile(r"\s*(?:[\[(*]+([A-Za-z])[\])*]+|([A-Za-z])[).:])(?=\s|$|[.:)*])")
_LETTER_BRACKETED = re.compile(r"[(\[]([A-Za-z])[)\]]")
# "A cat" and "I think" are words, not letters.
_LETTER_LOOSE = re.compile(r"(?<![\w'.])(?!(?:A|I)\s+(?!or\b|and\b)[a-z])([A-Z])(?![\w'])")

_YES_NO = re.compile(r"\b(yes|no)\b", re.IGNORECASE)

_NUMBER = re.compile(
    r"(?<![\w.,])([-+\u2212]?)\s?[$\u20ac\u00a3]?\s?"
    r"(\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:[.,]\d+)?(?:[eE][-+]?\d+)?|\.\d+)(?!\d)\s*(%|percent\b)?"
)
_NUMBER_NAMED = re.compile(r"(?:\banswer\b(?:\s+is)?\s*:?|=)\s*(?=\D{0,12}\d)", re.IGNORECASE)


def option_letter(text: str) -> str | None:
    """The option a text chooses, as a capital letter; None where it chooses none, or several.

    Read in this order: the letter alone ("B", "(B)", "b."), named ("the answer is B"), in front with a mark
    ("B. a dog", "(B) a dog"), in brackets, or the only capital letter that stands alone. Where one is named
    several times, the last counts.
    """
    alone = _LETTER_ALONE.fullmatch(text)
    if alone:
        return alone[1].upper()
    named = _LETTER_NAMED.findall(text)
    if named:
        return "".join(named[-1]).upper()
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
    """The number a text gives, be it with thousands' commas, currency or percent sign; None if it has none.

    Of several, the one after "answer is" or "=" counts, else the first.
    """
    named = list(_NUMBER_NAMED.finditer(text))
    found = (_NUMBER.search(text, named[-1].end()) if named else None) or _NUMBER.search(text)
    if found is None:
        return None
    sign, digits, percent = found.groups()
    # A comma that groups no three digits is a decimal comma.
    plain = (
        digits.replace(",", "") if re.match(r"\d{1,3}(,\d{3})+(\.|$)", digits) else digits.replace(",", ".")
    )
    return Quantity(float(plain) * (-1 if sign in ("-", "\u2212") and sign else 1), percent is not None)


def same_quantity(said: Quantity, right: Quantity, tolerance: float) -> bool:
    """Whether two numbers are equal within a share of the right one.

    Where one has a percent sign and the other has not, "12 %" is both 12 and 0.12.
    """
    values = {said.value}
    if said.percent != right.percent:
        values.add(said.value / 100 if said.percent else said.value * 100)
    slack = tolerance * abs(right.value) + 1e-9 * max(1.0, abs(right.value))
    return any(abs(value - right.value) <= slack for value in values)
