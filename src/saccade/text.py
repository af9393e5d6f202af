"""Text of others, made safe to echo: control characters written out, long text cut (pure)."""

from __future__ import annotations

import re

LONGEST = 200
"""Characters of a name that an error echoes."""

_UNSAFE = re.compile(
    # C0 and C1 controls, line and paragraph separators, bidirectional overrides, lone surrogates.
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: object, keep: str = "") -> str:
    """Text as a terminal may see it: what would move the cursor, colour or reorder is written out as escapes.

    Args:
        text: What to show; anything but a string is shown as ``str`` writes it.
        keep: Control characters that may stay, such as a line feed in an answer of several lines.
    """
    return _UNSAFE.sub(lambda found: found[0] if found[0] in keep else _escaped(found[0]), str(text))


def short(text: object, most: int = LONGEST) -> str:
    """Text on one line, printable, and cut in the middle where it is longer than ``most`` characters."""
    line = printable(" ".join(str(text).split()) if len(str(text)) <= 8 * most else str(text))
    if len(line) <= most:
        return line
    head = most * 2 // 3
    tail = max(most - head - 5, 0)
    return f"{line[:head]} ... {line[len(line) - tail :]}"


def _escaped(char: str) -> str:
    return char.encode("unicode_escape", "backslashreplace").decode("ascii")
