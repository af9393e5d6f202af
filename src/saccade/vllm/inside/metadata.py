"""Attention metadata of a step: noted as it is built, and built again by the same builder for some of its
rows.

Shape letters: N rows of the step, Q requests, T text rows, S requests or runs that some of them are split
into.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from vllm.v1.attention.backend import CommonAttentionMetadata, subclass_attention_backend

TAKEN = ("CPUAttentionBackend", "FlashAttentionBackend", "TritonAttentionBackend")
"""Backends whose metadata stands by itself, in any order of requests. Others keep one plan or table for all
metadata of a step, so that what is built for some rows would change what layers with all rows read, or want
requests of one row first. By class, for one of ROCm's goes by another's name."""


@dataclass(frozen=True, eq=False)
class Note:
    """What metadata was built from.

    Attributes:
        common: What all backends are given, on the host and on the device.
        builder: Who built it.
    """

    common: CommonAttentionMetadata
    builder: Any


class Noted:
    """What the metadata of the newest step was built from, by the layers that share blocks.

    Attributes:
        by_layer: The note of every attention layer, by its name; none before the first step.
    """

    def __init__(self) -> None:
        self.by_layer: dict[str, Note] = {}


def watch(attentions: list[Any], noted: Noted) -> None:
    """Lets ``noted`` see what the metadata of some attention layers is built from.

    Raises:
        ValueError: If they do not share a backend, one sees a window alone, or the backend is none of
            ``TAKEN``, or writes K and V by itself.
    """
    stock = attentions[0].attn_backend
    if any(attention.sliding_window is not None for attention in attentions):
        raise ValueError("saccade: inside vLLM plans are for rows that see all before them, no window alone")
    if any(attention.attn_backend is not stock for attention in attentions):
        raise ValueError("saccade: the layers of this model have different attention backends")
    if stock.__name__ not in TAKEN:
        raise ValueError(
            f"saccade: the attention backend {stock.get_name()} ({stock.__name__}) holds the metadata of one "
            "set of rows at a time, and plans have several: choose FLASH_ATTN or TRITON_ATTN with "
            "--attention-backend"
        )
    if stock.forward_includes_kv_cache_update:
        raise ValueError(
            f"saccade: the attention backend {stock.get_name()} writes K and V of the rows that attend, and "
            "under a plan more rows have some; choose another with --attention-backend"
        )
    builder: Any = stock.get_builder_cls()

    class NotingBuilder(builder):
        """The backend's builder, which leaves a note."""

        # Else layers of like blocks get the first ones' metadata with other blocks, and nothing is built.
        supports_update_block_table = False

        def build(self, common_prefix_len: int, common_attn_metadata: Any, **more: Any) -> Any:
            """Builds the metadata of a step."""
            note = Note(common_attn_metadata, self)
            noted.by_layer.update(dict.fromkeys(self.layer_names, note))
            return super().build(common_prefix_len, common_attn_metadata, **more)

    made = subclass_attention_backend("Saccade", stock, NotingBuilder)
    for attention in attentions:
        attention.attn_backend = made


@dataclass(frozen=True, eq=False)
class SomeRows:
    """Some rows of a step, split into requests of their own.

    Attributes:
        starts_S1: Where each begins among them, and their number at the end; on the host.
        request_S: Which request of the step each belongs to; on the host.
        lengths_S: Rows each attends to up to its last; on the device.
        longest: The most of these, or more; on the host.
        slots_T: Where K and V of the rows are.
    """

    starts_S1: npt.NDArray[np.int64]
    request_S: npt.NDArray[np.int64]
    lengths_S: torch.Tensor
    longest: int
    slots_T: torch.Tensor


def metadata_of(part: SomeRows, note: Note) -> Any:
    """The backend's own metadata for some rows; None where there are none."""
    common = note.common
    if not len(part.request_S):
        return None
    device = common.query_start_loc.device
    starts = torch.from_numpy(part.starts_S1.astype(np.int32))
    requests = torch.from_numpy(part.request_S).to(device, non_blocking=True)
    rows = int(part.starts_S1[-1])
    given = CommonAttentionMetadata(
        query_start_loc=starts.to(device, non_blocking=True),
        query_start_loc_cpu=starts,
        seq_lens=part.lengths_S,
        num_reqs=len(part.request_S),
        num_actual_tokens=rows,
        max_query_len=int(np.diff(part.starts_S1).max()),
        max_seq_len=part.longest,
        block_table_tensor=common.block_table_tensor.index_select(0, requests),
        slot_mapping=part.slots_T,
        causal=True,
        seq_lens_cpu_upper_bound=torch.full((len(part.request_S),), part.longest, dtype=torch.int32),
    )
    stock: Any = type(note.builder).__mro__[1]
    return stock.build(note.builder, 0, given)
