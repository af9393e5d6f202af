"""Pages as Jinja templates: what is put in is escaped, and a name that nothing fills is an error (pure)."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import TYPE_CHECKING, Any

from saccade.report import pieces, text
from saccade.report.style import KIND_COLORS, color, paint

if TYPE_CHECKING:
    from jinja2 import Environment

PIECES = (pieces.cards, pieces.command, pieces.details, pieces.dot, pieces.facts, pieces.header, pieces.png)
"""Pieces that templates may call; what they return is HTML."""
WORDS = (text.above_blind, text.amount, text.beside_blind, text.duration, text.interval, text.percent)
"""Numbers as people read them."""


def fill(room: str, name: str, /, **data: Any) -> str:
    """A template of a package, filled.

    Args:
        room: The package in whose folder it lies.
        name: Its file.
        **data: What it shows.
    """
    return _environment(room).get_template(name).render(data)


@cache
def _environment(room: str) -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    found = Environment(
        loader=PackageLoader(room, ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.globals.update({one.__name__: one for one in (*WORDS, text.difference, color, paint)})
    found.globals.update({one.__name__: _html(one) for one in PIECES}, KIND_COLORS=KIND_COLORS)
    return found


def _html(piece: Callable[..., str]) -> Callable[..., str]:
    from markupsafe import Markup

    @wraps(piece)
    def made(*args: Any, **named: Any) -> str:
        return Markup(piece(*args, **named))

    return made
