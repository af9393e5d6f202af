"""Attention of a row that packs questions behind a picture: causal over the picture, masked behind it only.

A mask over all rows would be half of it visual rows, for which a causal kernel does less than half the work.

Shape letters: B pictures, H heads, R rows, T text rows (the last of R), K width of a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AttentionInterface

from saccade.glance.model import Llava

PACKED = "saccade_packed"


def packed_attention(
    module: nn.Module,
    query_BHRK: torch.Tensor,
    key_BHRK: torch.Tensor,
    value_BHRK: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """Attention as transformers calls it; the additive mask, (B, 1, T, R), is of the text rows alone."""
    text = 0 if attention_mask is None else attention_mask.shape[2]
    first = query_BHRK.shape[2] - text
    query, key, value = (part[:, :, :first] for part in (query_BHRK, key_BHRK, value_BHRK))
    out = [F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling)]
    if attention_mask is not None:
        kind = value_BHRK.dtype
        scores = (query_BHRK[:, :, first:] * scaling).to(kind) @ key_BHRK.to(kind).mT
        out.append((scores + attention_mask.to(kind)).softmax(-1) @ value_BHRK)
    return torch.cat(out, dim=2).transpose(1, 2), None


def _wide(module: nn.Module, inputs: tuple, output: torch.Tensor) -> torch.Tensor:
    return output.float()


@contextmanager
def packed(model: Llava) -> Iterator[None]:
    """Let a model's decoder attend so for a while; outside of it the model is stock."""
    config = model.model.language_model.config
    before = config._attn_implementation
    AttentionInterface.register(PACKED, packed_attention)
    config._attn_implementation = PACKED
    try:
        yield
    finally:
        config._attn_implementation = before


def keep_wide(model: Llava) -> None:
    """Keep float32 what meets float32, in place.

    Under autocast a projection gives bfloat16; arithmetic between the two formats is ten times slower on a
    CPU than a copy into the wider one.
    """
    for layer in model.model.language_model.layers:
        attention = layer.self_attn
        for linear in (attention.q_proj, attention.k_proj, attention.o_proj, layer.mlp.down_proj):
            linear.register_forward_hook(_wide)
    for layer in model.model.vision_tower.encoder.layers:
        for linear in (layer.self_attn.out_proj, layer.mlp.fc2):
            linear.register_forward_hook(_wide)
