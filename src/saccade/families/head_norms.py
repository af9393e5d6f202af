"""Decoders that norm queries and keys before they turn, head by head (Qwen3) or all heads as one (OLMo).

Shape letters: B batch, N rows, D hidden, H heads, K head width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from saccade.families.base import Family, heads_of
from saccade.families.turning import Rotary


class HeadNorms(Family):
    """The part of an adapter whose decoders may have such norms; a decoder without them is as any other."""

    def queries(self, attn: nn.Module, x_BND: torch.Tensor, rotary: Rotary) -> torch.Tensor:
        return self.turn(_normed(attn, "q_norm", attn.q_proj(x_BND)), rotary)

    def keys(self, attn: nn.Module, x_BND: torch.Tensor, rotary: Rotary) -> torch.Tensor:
        return self.turn(_normed(attn, "k_norm", attn.k_proj(x_BND)), rotary)

    def linears(self, layer: Any) -> dict[str, tuple[torch.Tensor, torch.Tensor | None]]:
        if hasattr(layer.self_attn, "q_norm"):
            raise ValueError(
                f"the decoder of this {self.name} model norms queries and keys head by head, or all heads as "
                "one, so the bounds, which go by the weights of their projections, are not of it: leave "
                "bounds out of --what"
            )
        return super().linears(layer)


def _normed(attn: Any, name: str, x_BND: torch.Tensor) -> torch.Tensor:
    """Projected rows by head (B, H, N, K), normed."""
    norm = getattr(attn, name, None)
    if norm is not None and len(norm.weight) != attn.head_dim:
        x_BND, norm = norm(x_BND), None
    x_BHNK = heads_of(x_BND, attn.head_dim)
    return x_BHNK if norm is None else norm(x_BHNK)
