"""Decoders that norm the heads of queries and keys before they turn (Qwen3).

Shape letters: B batch, N rows, D hidden, H heads, K head width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from saccade.families.base import Family, Rotary, heads_of


class HeadNorms(Family):
    """The part of an adapter whose decoders may have such norms; a decoder without them is as any other."""

    def queries(self, attn: nn.Module, x_BND: torch.Tensor, rotary: Rotary) -> torch.Tensor:
        return self.turn(_normed(attn, "q_norm", heads_of(attn.q_proj(x_BND), attn.head_dim)), rotary)

    def keys(self, attn: nn.Module, x_BND: torch.Tensor, rotary: Rotary) -> torch.Tensor:
        return self.turn(_normed(attn, "k_norm", heads_of(attn.k_proj(x_BND), attn.head_dim)), rotary)

    def linears(self, layer: Any) -> dict[str, tuple[torch.Tensor, torch.Tensor | None]]:
        if hasattr(layer.self_attn, "q_norm"):
            raise ValueError(
                f"the decoder of this {self.name} model norms queries and keys head by head, so the bounds, "
                "which go by the weights of their projections, are not of it: leave bounds out of --what"
            )
        return super().linears(layer)


def _normed(attn: nn.Module, name: str, x_BHNK: torch.Tensor) -> torch.Tensor:
    norm = getattr(attn, name, None)
    return x_BHNK if norm is None else norm(x_BHNK)
