"""Who sees whom: the rows that each row attends to in a layer, as a family states it (pure).

Shape letters: B batch, N rows, T rows of the full sequence, Q rows that ask, K rows that answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch.nn.functional import pad


@dataclass(frozen=True, eq=False)
class Sight:
    """Who sees whom in a kind of layer of one forward.

    Attributes:
        window: How many rows back a row sees, itself among them; None where it sees all before it.
        block_BT: Number of the block that each row of the full sequence is in, -1 for none, on the host; None
            where there are no blocks. Rows of a block see each other both ways.
        bounded: Whether the window bounds that too.
        chunk: Rows of a part; a row sees those of its own part alone. None where there are no parts.
        begins_B1: Rows of padding before each sample, from where its parts are counted; None for none.
    """

    window: int | None = None
    block_BT: torch.Tensor | None = None
    bounded: bool = True
    chunk: int | None = None
    begins_B1: torch.Tensor | None = None

    def slides(self, total: int) -> bool:
        """Whether the window, or parts, hide any row of a sequence of so many."""
        span = self.window if self.chunk is None else self.chunk
        return span is not None and total > span

    def reach(self, row: int) -> int | None:
        """How far back a row of an unpadded sequence sees, itself counted; None for all before it."""
        return self.window if self.chunk is None else row % self.chunk + 1

    @cached_property
    def alike(self) -> bool:
        """Whether blocks lie alike in all samples, if there are any."""
        block = self.block_BT
        return block is None or bool((block == block[:1]).all())

    def seen(
        self,
        asks_BQ: torch.Tensor,
        answers_BK: torch.Tensor,
        ask_block_BQ: torch.Tensor | None = None,
        answer_block_BK: torch.Tensor | None = None,
        moved: tuple[torch.Tensor | None, torch.Tensor | None] = (None, None),
    ) -> torch.Tensor:
        """Boolean (B, Q, K): which rows each sees, by their numbers.

        Args:
            asks_BQ: Numbers of the rows that ask.
            answers_BK: Numbers of the rows that answer.
            ask_block_BQ: Their blocks; needed where there are any.
            answer_block_BK: Likewise.
            moved: How far each has moved up to what was dropped before it, where positions closed up.
        """
        before = answers_BK[:, None, :] <= asks_BQ[:, :, None]
        near = None
        if self.chunk is not None or self.window is not None:
            asks, answers = (
                ids if by is None else ids - by for ids, by in zip((asks_BQ, answers_BK), moved, strict=True)
            )
        if self.chunk is not None:
            first = 0 if self.begins_B1 is None else self.begins_B1.to(asks.device)
            near = ((asks - first) // self.chunk)[:, :, None] == ((answers - first) // self.chunk)[:, None, :]
        if self.window is not None:
            near = answers[:, None, :] > asks[:, :, None] - self.window
        if ask_block_BQ is None or answer_block_BK is None:
            return before if near is None else before & near
        both = (ask_block_BQ[:, :, None] == answer_block_BK[:, None, :]) & (ask_block_BQ >= 0)[:, :, None]
        if near is None:
            return before | both
        return (before | both) & near if self.bounded else before & near | both


CAUSAL = Sight()
"""Every row sees itself and all before it."""


def begins(real_BT: torch.Tensor) -> torch.Tensor:
    """Rows of padding before each sample (B, 1)."""
    return (real_BT.long().cumsum(1) == 0).sum(1, keepdim=True)


def runs_of(mask_BN: torch.Tensor) -> torch.Tensor:
    """Number of the unbroken run of a mask that each row is in, (B, N) from 0 on; -1 outside."""
    starts = mask_BN & ~pad(mask_BN, (1, 0))[:, :-1]
    return (starts.long().cumsum(1) - 1).masked_fill(~mask_BN, -1)
