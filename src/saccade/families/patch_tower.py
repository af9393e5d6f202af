"""Vision towers of one row a patch, and perhaps a CLS row before them: CLIP and SigLIP.

Shape letters: T views, P rows of a view, Q rows of it that ask, V width, H heads, K head width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from saccade.families.base import Family, heads_of
from saccade.families.vision import Tower


class PatchTower(Family):
    """The part of an adapter that takes layers of such towers apart."""

    def tower_heads(
        self, attn: nn.Module, x: torch.Tensor, kwargs: Mapping[str, Any], cls_only: bool
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        asking = x[:, :1] if cls_only else x
        return [(heads_of(attn.q_proj(asking), attn.head_dim), heads_of(attn.k_proj(x), attn.head_dim))]

    def tower_layer(
        self,
        layer: nn.Module,
        hidden_TPV: torch.Tensor,
        bias_T11P: torch.Tensor | None,
        after_attention: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
    ) -> torch.Tensor:
        attn, x = layer.self_attn, layer.layer_norm1(hidden_TPV)
        q, k, v = (heads_of(project(x), attn.head_dim) for project in (attn.q_proj, attn.k_proj, attn.v_proj))
        bias = None if bias_T11P is None else bias_T11P.to(q.dtype)
        dropout = attn.dropout if attn.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, bias, dropout, scale=attn.scale)
        hidden = after_attention(hidden_TPV + attn.out_proj(mixed.transpose(1, 2).flatten(2)), q, k)
        return hidden + layer.mlp(layer.layer_norm2(hidden))


def joined_tower(module: nn.Module, heads: int, merge: int) -> Tower:
    """A tower without a CLS row, run to its last layer, whose patches are joined into rows after it.

    Args:
        module: The tower.
        heads: Of its attention.
        merge: Patches of a row.
    """
    layers: Any = getattr(module, "encoder", module).layers
    return Tower(
        module,
        layers,
        states=(),
        made=layers[-1].self_attn,
        reads=None,
        heads=heads,
        has_cls=False,
        merge=merge,
        projector=None,
        strips=False,
    )
