"""What is remembered of a row beside its K and V: whole numbers, one a slot of the KV cache.

Requests are known to a model by their blocks alone. What belongs to the rows of a request (how many of them
are text, how far positions were left behind) is therefore kept where their K and V are: it is found again by
later chunks and steps, by requests that share blocks, and made anew when a request is computed anew.

Shape letters: N rows of the step, Q requests.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Ints = npt.NDArray[np.int64]


class SlotMemory:
    """One whole number for every slot of the KV cache."""

    def __init__(self) -> None:
        self._held: torch.Tensor | None = None

    def before(
        self, attention: Any, block_table_QB: torch.Tensor, block_size: int, computed_Q: Ints
    ) -> torch.Tensor:
        """What stands at the last row of each request that was computed earlier (Q); 0 where none was.

        Args:
            attention: A layer whose KV cache tells how many slots there are.
            block_table_QB: Blocks of every request.
            block_size: Slots of a block.
            computed_Q: Rows of every request that were computed earlier.
        """
        if self._held is None:
            width = attention.num_kv_heads * (attention.head_size + attention.head_size_v)
            slots = attention.kv_cache.numel() // width
            self._held = torch.zeros(slots, dtype=torch.int32, device=attention.kv_cache.device)
        last = np.maximum(computed_Q - 1, 0)
        device = self._held.device
        slots_Q = slots_of(
            block_table_QB, block_size, np.arange(len(last)), torch.from_numpy(last).to(device)
        )
        fresh = torch.from_numpy(computed_Q == 0).to(device, non_blocking=True)
        return self._held.index_select(0, slots_Q).masked_fill(fresh, 0)

    def note(self, slots_N: torch.Tensor, values_N: torch.Tensor) -> None:
        """Notes what stands at the rows of this step."""
        assert self._held is not None
        self._held.index_copy_(0, slots_N, values_N.to(self._held.dtype))


def slots_of(
    block_table_QB: torch.Tensor, block_size: int, request_N: Ints, place_N: torch.Tensor
) -> torch.Tensor:
    """Slots of rows that are the ``place``-th of their requests."""
    requests = torch.from_numpy(np.asarray(request_N)).to(place_N.device, non_blocking=True)
    blocks = block_table_QB[requests, place_N // block_size].long()
    return blocks * block_size + place_N % block_size
