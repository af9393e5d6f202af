"""Text of others, made safe to echo: control characters written out, long text cut (pure)."""

from __future__ import annotations

import unicodedata

LONGEST = 200
"""Characters of a name that an error echoes."""

_JOINERS = "\u200c\u200d"
"""Shape letters and pictures, and do nothing else."""


def printable(text: object, keep: str = "") -> str:
    """Text as a terminal may see it: what would move the cursor, colour or reorder is written out as escapes.

    Args:
        text: What to show; anything but a string is shown as ``str`` writes it.
        keep: Control characters that may stay, such as a line feed in an answer of several lines.
    """
    text = str(text)
    if text.isprintable():
        return text
    return "".join(char if _harmless(char) or char in keep else _escaped(char) for char in text)


def short(text: object, most: int = LONGEST) -> str:
    """Text on one line, printable, and cut in the middle where it is longer than ``most`` characters."""
    line = printable(" ".join(str(text).split()) if len(str(text)) <= 8 * most else str(text))
    if len(line) <= most:
        return line
    head = most * 2 // 3
    tail = max(most - head - 5, 0)
    return f"{line[:head]} ... {line[len(line) - tail :]}"


_ASCII = {
    "\N{FULL BLOCK}": "#",
    "\N{MIDDLE DOT}": "*",
    "\N{HORIZONTAL ELLIPSIS}": "...",
    "\N{PLUS-MINUS SIGN}": "+-",
    "\N{MULTIPLICATION SIGN}": "x",
    "\N{RIGHTWARDS ARROW}": "->",
    "\N{LESS-THAN OR EQUAL TO}": "<=",
    "\N{GREATER-THAN OR EQUAL TO}": ">=",
    "\N{EN DASH}": "-",
    "\N{EM DASH}": "-",
    "\N{BOX DRAWINGS LIGHT HORIZONTAL}": "-",
    "\N{BOX DRAWINGS HEAVY HORIZONTAL}": "-",
    "\N{BOX DRAWINGS HEAVY LEFT}": "-",
    "\N{BOX DRAWINGS HEAVY RIGHT}": "-",
}


def replace_unknown(error: UnicodeError) -> tuple[str, int]:
    """Stands in for characters that a stream cannot write, as a handler of ``codecs.register_error``."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    return "".join(_ASCII.get(char, _escaped(char)) for char in missing), error.end


def quoted(text: object, most: int = LONGEST) -> str:
    """The same between quotes, as an error names what it was given."""
    return f"'{short(text, most)}'"


def _harmless(char: str) -> bool:
    """Whether a terminal shows a character and does nothing else with it."""
    return char.isprintable() or char in _JOINERS or unicodedata.category(char) == "Zs"


def _escaped(char: str) -> str:
    return char.encode("unicode_escape", "backslashreplace").decode("ascii")


def is_text(text: str) -> bool:
    """Whether a string can be written down: JSON may hold halves of surrogate pairs, which cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
