"""Positions where rows that go leave gaps, and positions are plain numbers: vLLM counts rows, the plan does
not.

Shape letters: N rows of the step, Q requests, K visual rows of the step.
"""

from __future__ import annotations

import numpy as np
import torch

from saccade.vllm.inside.decoder import Decoder
from saccade.vllm.inside.slots import SlotMemory


class Gaps:
    """How far the positions of a request have moved, remembered beside its K and V."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder, self._moved = decoder, SlotMemory()

    def spread(
        self, positions_N: torch.Tensor, is_visual: torch.Tensor | None, places_K2: torch.Tensor | None
    ) -> torch.Tensor:
        """Positions as they are in the whole prompt.

        Args:
            positions_N: Positions as vLLM counts them.
            is_visual: Which rows are visual, on the host.
            places_K2: Of every visual row how many rows of its picture before it are gone, and how many after
                it (of its picture's last).
        """
        noted = self._decoder.rows
        if not noted.real:
            return positions_N
        noted.read(is_visual, positions_N.shape[-1])
        common, device = noted.common, positions_N.device
        count = len(noted.visual)
        block = noted.block_size
        before_Q = self._moved.before(
            self._decoder.attentions[0], common.block_table_tensor, block, noted.computed
        )
        here_N = torch.zeros(count, dtype=torch.int32, device=device)
        after_N = torch.zeros(count + 1, dtype=torch.int32, device=device)
        if places_K2 is not None:
            rows = torch.from_numpy(np.flatnonzero(noted.visual)).to(device, non_blocking=True)
            here_N.index_copy_(0, rows, places_K2[:, 0].to(torch.int32))
            after_N.index_copy_(0, rows + 1, places_K2[:, 1].to(torch.int32))
        # What the pictures of this step leave behind, up to each row and, at its request's first, not at all.
        sums_N1 = after_N.cumsum(0, dtype=torch.int32)
        request = torch.from_numpy(noted.request).to(device, non_blocking=True)
        first = torch.from_numpy(noted.starts[:-1]).to(device, non_blocking=True)
        base_N = before_Q.index_select(0, request) - sums_N1.index_select(0, first).index_select(0, request)
        self._moved.note(common.slot_mapping[:count], base_N + sums_N1[1:])
        moved_N = (base_N + sums_N1[:-1] + here_N).to(positions_N.dtype)
        return torch.cat((positions_N[:count] + moved_N, positions_N[count:]))
