"""Skip KV-cache: rows that leave the cache for good once a prompt has been read.

Shape letters: B batch, N rows of the forward, K cached rows, H heads, W head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from saccade.engine.cache import Cache, KeyRows, kv_lengths, make_ragged, ragged_layer
from saccade.engine.frame import Frame


@dataclass(frozen=True, eq=False)
class Remainder:
    """What is left of the columns of a layer's keys.

    Attributes:
        rows: Which rows they are.
        columns_BK: Columns that stay, in order; the first dimension is 1 where all samples keep the same.
    """

    rows: KeyRows
    columns_BK: torch.Tensor

    @classmethod
    def of(cls, held: KeyRows, cached_BN: torch.Tensor, start: int, first: int) -> Remainder:
        """Works out what stays.

        Args:
            held: Rows of the layer's columns.
            cached_BN: Rows of this forward that stay, on the device of ``held``.
            start: First row of this forward in the full sequence; earlier rows stay.
            first: First row of the full sequence that leaves.
        """
        new = cached_BN.shape[1]
        ids_BK = held.ids_BK
        if bool((cached_BN == cached_BN[:1]).all()):
            cached_BN = cached_BN[:1]
        batch = max(len(ids_BK), len(cached_BN))
        ids_BK, cached_BN = ids_BK.expand(batch, -1), cached_BN.expand(batch, -1)
        at_BK = (ids_BK - start).clamp(0, max(new - 1, 0))
        stay_BK = (ids_BK >= 0) & ((ids_BK < start) | cached_BN.gather(1, at_BK))
        counts_B = stay_BK.sum(1)
        count = int(counts_B.max())
        columns_BK = torch.argsort(~stay_BK, dim=1, stable=True)[:, :count]
        filled_BK = torch.arange(count, device=ids_BK.device) < counts_B[:, None]
        ids_BK = ids_BK.gather(1, columns_BK).masked_fill(~filled_BK, -1)
        left = (*held.left, (first, start + new))
        padding, moved = int((~filled_BK).sum(1).max()) if batch else 0, held.moved_BK
        moved = None if moved is None else moved.expand(batch, -1).gather(1, columns_BK)
        return cls(KeyRows(ids_BK, False, padding, held.shifts, left, moved), columns_BK)

    def take(self, x_BHKW: torch.Tensor) -> torch.Tensor:
        """The columns that stay, as tensors of their own: the rest is freed."""
        columns_BK = self.columns_BK.to(x_BHKW.device)
        if len(columns_BK) == 1:
            return x_BHKW.index_select(2, columns_BK[0])
        index = columns_BK[:, None, :, None].expand(-1, x_BHKW.shape[1], -1, x_BHKW.shape[3])
        return x_BHKW.gather(2, index)


def release(frame: Frame, cache: Cache, numbers: Sequence[int]) -> None:
    """Drops from the cache what the route says decoding does not attend to; positions stay what they were.

    Once per prompt, after all layers have run; layers that held the same rows share the index work.

    Args:
        frame: The forward that has just ended.
        cache: Its cache.
        numbers: Where in the cache each layer's keys are.
    """
    memo: dict[tuple[int, int], tuple[Remainder, tuple[Any, ...]]] = {}
    for number, cached_BN in zip(numbers, frame.cached, strict=True):
        if cached_BN is None:
            continue
        ragged = ragged_layer(cache, number)
        held = frame.held(kv_lengths(cache)[number]) if ragged is None else ragged.rows
        assert held is not None
        key = (id(held), id(cached_BN))
        if key not in memo:
            there = cached_BN.to(held.ids_BK.device, non_blocking=True)
            first = frame.past + int((~cached_BN).any(0).int().argmax())
            memo[key] = (Remainder.of(held, there, frame.past, first), (held, cached_BN))
        left = memo[key][0]
        if left.rows.ids_BK.shape[1] == held.ids_BK.shape[1]:
            continue
        make_ragged(cache, number, held).shrink(left.rows, left.take)
