"""The ``with_layout`` and ``tracing`` blocks that are open on one model, each for its own thread."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(eq=False)
class OpenBlock:
    """One that is open.

    Attributes:
        name: Which of the two.
        missed: Whether a forward with visual rows ran in a thread that traces nothing.
    """

    name: str
    missed: bool = False


class Blocks:
    """Those of one attachment, in all threads: they tell what a thread that has none of its own misses."""

    def __init__(self) -> None:
        """Begins with none."""
        self._open: list[OpenBlock] = []

    @contextmanager
    def layout(self) -> Iterator[None]:
        """While a layout is given."""
        with self._opened("with_layout"):
            yield

    @contextmanager
    def tracing(self, found: list) -> Iterator[None]:
        """While forwards of this thread are traced; warns if there were some, and all in other threads."""
        with self._opened("tracing") as block:
            yield
        if block.missed and not found:
            warnings.warn(
                "nothing was traced: the model ran in another thread than the one that opened tracing(); "
                "open it in the thread that runs the model",
                stacklevel=5,
            )

    @contextmanager
    def _opened(self, name: str) -> Iterator[OpenBlock]:
        block = OpenBlock(name)
        self._open.append(block)
        try:
            yield block
        finally:
            self._open.remove(block)

    def untraced(self) -> None:
        """Notes a forward with visual rows whose thread traces nothing."""
        for block in self._open:
            block.missed = True

    def cannot_tell(self) -> None:
        """Says that embeddings came and nobody knows which of them are visual.

        Raises:
            ValueError: If another thread gave a layout.
        """
        if any(block.name == "with_layout" for block in self._open):
            raise ValueError(
                "these embeddings need a layout, and with_layout(...) was opened in another thread: open it "
                "in the thread that runs the model"
            )
        warnings.warn(
            "saccade cannot tell which of these embeddings are visual and treats all as text; "
            "give the layout with Attachment.with_layout(...)",
            stacklevel=3,
        )
