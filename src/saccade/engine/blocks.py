"""The ``with_layout``, ``tracing`` and ``answering`` blocks that are open on one model.

Each is for the thread or asyncio task that opens it, and what that starts inside it (``asyncio.to_thread``).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch

from saccade.engine.given import Given
from saccade.engine.trace import Trace


@dataclass(eq=False)
class OpenBlock:
    """One that is open.

    Attributes:
        name: Which of the three.
        said: What it says to the forwards inside it.
        missed: Whether a forward with visual rows ran in a thread that traces nothing.
    """

    name: str
    said: Any
    missed: bool = False


_HERE: ContextVar[tuple[OpenBlock, ...]] = ContextVar("saccade_blocks", default=())
"""Blocks of all models that this thread or task is inside of, the innermost last."""


class Blocks:
    """Those of one attachment, in all threads: they tell what a thread that has none of its own misses."""

    def __init__(self) -> None:
        """Begins with none."""
        self._open: list[OpenBlock] = []

    @contextmanager
    def layout(self, given: Given) -> Iterator[None]:
        """While a layout is given."""
        with self._opened("with_layout", given):
            yield

    @contextmanager
    def answering(self, asked_BN: torch.Tensor) -> Iterator[None]:
        """While it is said which rows are prompts."""
        with self._opened("answering", asked_BN):
            yield

    @contextmanager
    def tracing(self, found: list[Trace], sources: bool) -> Iterator[None]:
        """While forwards of this thread are traced; warns if there were some, and all in other threads."""
        with self._opened("tracing", (found, sources)) as block:
            yield
        if block.missed and not found:
            warnings.warn(
                "nothing was traced: the model ran in another thread than the one that opened tracing(); "
                "open it in the thread that runs the model",
                stacklevel=5,
            )

    @contextmanager
    def _opened(self, name: str, said: Any) -> Iterator[OpenBlock]:
        block = OpenBlock(name, said)
        self._open.append(block)
        _HERE.set((*_HERE.get(), block))
        try:
            yield block
        finally:
            # A generator may be closed in another context than it began in, so no token is handed back.
            _HERE.set(tuple(one for one in _HERE.get() if one is not block))
            self._open.remove(block)

    def _said(self, name: str) -> list[Any]:
        """What the open blocks of this thread or task say, the innermost last."""
        # A task that began inside a block may outlive it, so that its context alone does not tell.
        return [one.said for one in _HERE.get() if one.name == name and one in self._open]

    @property
    def given(self) -> Given | None:
        """The layout that the innermost ``with_layout`` says."""
        return next(iter(self._said("with_layout")[-1:]), None)

    @property
    def asked_BN(self) -> torch.Tensor | None:
        """Rows of the prompts, as the innermost ``answering`` says."""
        return next(iter(self._said("answering")[-1:]), None)

    @property
    def traces(self) -> list[list[Trace]]:
        """Where the open ``tracing`` blocks note what happened; each notes all that does inside it."""
        return [found for found, _ in self._said("tracing")]

    @property
    def sources(self) -> bool:
        """Whether one of them notes what merged rows are made of."""
        return any(sources for _, sources in self._said("tracing"))

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
