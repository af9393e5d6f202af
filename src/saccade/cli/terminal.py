"""What reaches the terminal: text of others without control characters, warnings as one line each."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from saccade.core.text import printable, short

if TYPE_CHECKING:
    from rich.console import Console

PIPED_COLUMNS = 160
"""Columns of tables that go to no terminal: rich would assume 80, and fold them."""

LAYOUT = "\n\t"
"""Control characters that an answer of several lines may keep."""


def console(stderr: bool) -> Console:
    """A console whose text is printable: no answer of a model moves the cursor or colours what follows.

    Args:
        stderr: Whether it writes to standard error.
    """
    from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
    from rich.segment import Segment

    class Clean:
        def __init__(self, shown: ConsoleRenderable) -> None:
            self.shown = shown

        def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
            for segment in console.render(self.shown, options):
                # Rich's own moves of the cursor (progress bars) are marked as control.
                if segment.control:
                    yield segment
                else:
                    yield Segment(printable(segment.text, LAYOUT), segment.style)

    class Cleaning(RenderHook):
        def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
            return [Clean(shown) for shown in renderables]

    stream = sys.stderr if stderr else sys.stdout
    # Brackets are text: names of files and tasks hold them, and so do labels of healed plans.
    width = None if stream.isatty() else PIPED_COLUMNS
    made = Console(stderr=stderr, width=width, markup=False, emoji=False)
    made.push_render_hook(Cleaning())
    return made


@contextmanager
def plain_warnings(program: str, longest: int) -> Iterator[None]:
    """Warnings inside the block are one line each on standard error, without the path of their code.

    Args:
        program: Name that the line begins with.
        longest: Characters of the longest line.
    """

    def show(message: Warning | str, *where: Any, **more: Any) -> None:
        with suppress(OSError):  # nobody listens
            print(f"{program}: warning: {short(message, longest)}", file=sys.stderr, flush=True)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield
