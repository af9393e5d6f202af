"""Decoders whose layers turn by complex tables, or have no positions and queries that grow with their row.

Shape letters: B batch, N rows, D hidden, H heads, K head width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import nn

from saccade.families.base import Family, heads_of
from saccade.families.turning import Rotary, rotate_pairs

TURNED, TEMPERED = "turned", "tempered"


class Tempered(Family):
    """The part of an adapter that takes their attention apart; heads may be normed once they have turned."""

    numbered: ClassVar[tuple[str, ...]] = (TEMPERED,)

    def rotary_kind(self, attn: Any) -> str | None:
        return TURNED if attn.use_rope else TEMPERED

    def tables(self, attn: Any, stock: Any, numbers: Callable[[], torch.Tensor]) -> Rotary:
        return doubled(stock) if attn.use_rope else _tempered(attn.config, numbers())

    def rotary(
        self,
        decoder: nn.Module,
        hidden_BND: torch.Tensor,
        position_ids: torch.Tensor,
        kind: str | None = None,
    ) -> Rotary:
        if kind == TEMPERED:
            return _tempered(decoder.config, position_ids)
        return doubled(decoder.rotary_emb(hidden_BND, position_ids))

    def turn(self, x_BHNK: torch.Tensor, rotary: Rotary) -> torch.Tensor:
        return rotate_pairs(x_BHNK.float(), rotary).type_as(x_BHNK)

    def queries(self, attn: Any, x_BND: torch.Tensor, rotary: Rotary) -> torch.Tensor:
        asks = self._headed(attn, attn.q_proj(x_BND), rotary)
        return asks if attn.use_rope else (asks * rotary[2].unsqueeze(1)).to(asks.dtype)

    def keys(self, attn: Any, x_BND: torch.Tensor, rotary: Rotary) -> torch.Tensor:
        return self._headed(attn, attn.k_proj(x_BND), rotary)

    def _headed(self, attn: Any, x_BND: torch.Tensor, rotary: Rotary) -> torch.Tensor:
        x_BHNK = heads_of(x_BND, attn.head_dim)
        x_BHNK = self.turn(x_BHNK, rotary) if attn.use_rope else x_BHNK
        return attn.qk_norm(x_BHNK) if hasattr(attn, "qk_norm") else x_BHNK


def doubled(turns_BNK: torch.Tensor) -> Rotary:
    """Cosines and sines of complex turns, one for each number of a pair.

    Raises:
        ValueError: If they are complex no longer.
    """
    if not turns_BNK.is_complex():
        raise ValueError(
            "this model's complex tables of positions were cast to real numbers, as model.to(dtype) does, "
            "and the stock model is as wrong: load it with dtype=..., or cast it by .bfloat16() or .half()"
        )
    return turns_BNK.real.repeat_interleave(2, -1), turns_BNK.imag.repeat_interleave(2, -1)


def _tempered(config: Any, at_BN: torch.Tensor) -> Rotary:
    """No turn, and what queries are multiplied by at some row numbers."""
    grown = torch.log1p(torch.floor((at_BN.float() + 1.0) / config.floor_scale)) * config.attn_scale + 1.0
    scale = grown if config.attn_temperature_tuning else torch.ones_like(grown)
    one = torch.ones(*at_BN.shape, config.head_dim, device=at_BN.device)
    return one, torch.zeros_like(one), scale[..., None]
