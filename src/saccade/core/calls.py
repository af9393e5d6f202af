"""How the rows that ask are split into attention calls, so that no mask is of all rows by all (pure).

The engine runs the calls, and ``cost`` counts them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from saccade.core.rows import RowIndex
from saccade.core.sight import CAUSAL, Sight

CHUNK = 256
"""Fewest rows of a call that is cut off because a window hides what is far from it."""


@dataclass(frozen=True)
class Block:
    """One attention call: packed query rows ``start:stop`` over the keys ``first:keys``.

    Attributes:
        start: First packed query row.
        stop: End of the packed query rows.
        first: First key that they are scored against.
        keys: End of those keys.
        kind: What each sees of them: all, what a causal square shows, or what a mask says.
    """

    start: int
    stop: int
    first: int
    keys: int
    kind: Literal["all", "square", "mask"]


def blocks(
    query: RowIndex,
    alive: RowIndex,
    past: int = 0,
    same: bool = False,
    sight: Sight = CAUSAL,
    first: int = 0,
) -> tuple[Block, ...] | None:
    """Splits the queries into calls that kernels serve, or None where one masked call must do.

    Args:
        query: Rows that ask.
        alive: Rows that answer.
        past: Rows of the full sequence before this forward, those from ``first`` on all alive.
        same: Whether both are the same set.
        sight: Who sees whom.
        first: Row of the full sequence that the first key is.
    """
    whole = alive.slices == ((0, alive.rows),)
    if same and past == 0:
        # The packed rows are a prompt of their own, with the packed rows' blocks.
        held = _packed(sight, alive)
        if held is None:
            return None
        pieces, spread = [(0, query.count, 0)], not whole
    elif whole and query.slices is not None and sight.alike:
        held, spread, start, pieces = _held(sight, first, past + alive.rows), False, 0, []
        for a, b in query.slices:
            pieces.append((start, start + b - a, past + a - first))
            start += b - a
    else:
        return None
    if sight.chunk is not None and sight.slides(past + alive.rows):
        if spread or held:
            return None
        return tuple(call for piece in pieces for call in _parts(*piece, sight.chunk, first))
    if any(one == other for n, (_, _, one) in enumerate(held) for _, _, other in held[:n]):
        return None
    cuts = _Cuts(sight, tuple((a, b) for a, b, _ in held), spread and sight.slides(past + alive.rows))
    return tuple(call for start, stop, at in pieces for call in cuts.calls(start, stop, at))


def _parts(start: int, stop: int, at: int, chunk: int, first: int) -> Iterator[Block]:
    """Calls of packed queries whose own keys are ``at`` and what follows, each within one part."""
    while start < stop:
        begin = (first + at) // chunk * chunk - first
        last, low = min(at + stop - start, begin + chunk), max(begin, 0)
        kind: Literal["all", "square", "mask"] = "square" if low == at else "mask"
        yield Block(start, start + last - at, low, last, "all" if last - at == 1 else kind)
        start, at = start + last - at, last


Run = tuple[int, int, int]


def _held(sight: Sight, first: int, total: int) -> list[Run]:
    """Runs of keys that are a block: where they begin and end among the keys, and its number."""
    return [] if sight.block_BT is None else _runs(sight.block_BT[0, first:total])


def _packed(sight: Sight, alive: RowIndex) -> list[Run] | None:
    """The same for packed rows; None where samples differ, or the host cannot tell."""
    if sight.block_BT is None:
        return []
    block_BR = alive.packed(sight.block_BT[:, : alive.rows])
    if block_BR is None or not bool((block_BR == block_BR[:1]).all()):
        return None
    return _runs(block_BR[0])


def _runs(block_N: torch.Tensor) -> list[Run]:
    values, counts = block_N.unique_consecutive(return_counts=True)
    ends = counts.cumsum(0)
    found = zip((ends - counts).tolist(), ends.tolist(), values.tolist(), strict=True)
    return [run for run in found if run[2] >= 0]


@dataclass(frozen=True)
class _Cuts:
    """Cuts unbroken queries where blocks begin and end, and where a window slides.

    Attributes:
        sight: Who sees whom.
        runs: Where blocks begin and end among the keys.
        spread: Whether keys may be further apart than they stand, so that a window needs row numbers.
    """

    sight: Sight
    runs: Sequence[tuple[int, int]]
    spread: bool

    def calls(self, start: int, stop: int, at: int) -> Iterator[Block]:
        """Calls of packed queries whose own keys are ``at`` and what follows."""
        end = at + stop - start
        while at < end:
            run = next((run for run in self.runs if run[1] > at), (end, end))
            inside = run[0] <= at
            upto = min(run[1] if inside else run[0], end)
            yield from self._piece(start, at, upto, run if inside else None)
            start, at = start + upto - at, upto

    def _piece(self, start: int, at: int, end: int, run: tuple[int, int] | None) -> Iterator[Block]:
        window = self.sight.window
        slides = window is not None and (end > window or self.spread)
        step = max(window, CHUNK) if window is not None and slides else end - at
        for first in range(at, end, step):
            last = min(first + step, end)
            yield self._call(start + first - at, first, last, run, window if slides else None)

    def _call(self, start: int, at: int, end: int, run: tuple[int, int] | None, window: int | None) -> Block:
        keys = end if run is None else run[1]
        low, high = (0, 0) if window is None else (max(0, at - window + 1), max(0, end - window))
        if run is not None and not self.sight.bounded:
            low, high = min(low, run[0]), min(high, run[0])
        stop, exact = start + end - at, low == high and not (self.spread and window is not None)
        if exact and (run is not None or end - at == 1):
            return Block(start, stop, low, keys, "all")
        square = exact and run is None and low == at == 0
        return Block(start, stop, low, keys, "square" if square else "mask")
