"""Tables as Markdown (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]], right_from: int = 1) -> str:
    """A Markdown table; columns from ``right_from`` on are flush right, and a cell stays one cell."""
    rule = ["---" if i < right_from else "---:" for i in range(len(head))]
    return "\n".join("| " + " | ".join(map(_cell, row)) + " |" for row in (head, rule, *rows))


def _cell(text: str) -> str:
    """A cell's text with what would end it, a bar or a line's end, taken as text."""
    return " ".join(text.replace("|", "\\|").splitlines())
