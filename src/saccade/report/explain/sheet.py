"""A figure that is as tall as what is put on it: text is measured and wrapped, so that nothing overlaps."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextToPath

from saccade.report import style

LEADING = 1.4
"""Height of a line of text over its size."""


class Sheet:
    """Places are in inches from the top left corner; the height is set at the end."""

    def __init__(self, width: float) -> None:
        """An empty sheet of some width."""
        self.width = width
        self._items: list[Callable[[Figure, float], None]] = []

    def text(
        self, x: float, y: float, text: str, width: float, size: float = 8.5, lines: int = 9, **look: Any
    ) -> float:
        """Puts text below ``y``, wrapped to a width.

        Args:
            x: Left edge.
            y: Upper edge.
            text: What to write; it is never read as mathematics.
            width: Where lines break.
            size: Size in points.
            lines: Lines at most; more are cut short with an ellipsis.
            look: Properties of the text.

        Returns:
            Height of what was written.
        """
        wrapped = wrap(text, width, size, lines, look.get("fontweight", "normal"))
        step = size / 72 * LEADING

        def put(figure: Figure, height: float) -> None:
            for place, line in enumerate(wrapped):
                at = (x / self.width, 1 - (y + place * step) / height)
                figure.text(*at, line, fontsize=size, va="top", ha="left", parse_math=False, **look)

        self._items.append(put)
        return len(wrapped) * step

    def axes(self, x: float, y: float, width: float, height: float, paint: Callable[[Axes], None]) -> None:
        """Puts axes in a rectangle and has them painted."""

        def put(figure: Figure, total: float) -> None:
            where = (x / self.width, 1 - (y + height) / total, width / self.width, height / total)
            paint(figure.add_axes(where))

        self._items.append(put)

    def figure(self, height: float) -> Figure:
        """The figure, so tall."""
        figure = style.new_figure(self.width, height)
        figure.set_layout_engine("none")
        for put in self._items:
            put(figure, height)
        return figure


def wrap(text: str, width: float, size: float, lines: int, weight: str = "normal") -> list[str]:
    """Lines of text no wider than a width in inches; it breaks after blanks, commas and plus signs."""
    printed = "".join(c if c.isprintable() else " " for c in text)
    parts = [p for p in re.split(r"(?<=[\s,+])", " ".join(printed.split())) if p]
    # A word wider than a line is broken anywhere.
    parts = [piece for part in parts for piece in _pieces(part, width, size, weight)]
    found = [""]
    for part in parts:
        if found[-1] and measure((found[-1] + part).rstrip(), size, weight) > width:
            found.append("")
        found[-1] += part
    found = [line.strip() for line in found]
    if len(found) <= lines:
        return found
    last = found[lines - 1]
    while last and measure(last + " …", size, weight) > width:
        last = last[:-1].rstrip()
    return [*found[: lines - 1], last + " …"]


def measure(text: str, size: float, weight: str = "normal") -> float:
    """Width of a line of text in inches."""
    properties = FontProperties(family=style.RC["font.family"], size=size, weight=weight)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")
        return TextToPath().get_text_width_height_descent(text, properties, False)[0] / 72


def _pieces(part: str, width: float, size: float, weight: str) -> list[str]:
    """A word in pieces that each fit a line, of a character at least."""
    pieces = [part]
    while len(pieces[-1]) > 1 and (wide := measure(pieces[-1].rstrip(), size, weight)) > width:
        last = pieces.pop()
        fits = min(max(1, int(len(last) * width / wide)), len(last) - 1)
        while fits > 1 and measure(last[:fits], size, weight) > width:
            fits -= 1
        pieces += [last[:fits], last[fits:]]
    return pieces
