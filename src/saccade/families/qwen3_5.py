"""Qwen3.5: gated delta nets between attention layers, whose queries bring a gate.

Shape letters: B batch, N rows, D hidden, H heads, K head width.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn
from transformers import PreTrainedConfig, Qwen3_5Config, Qwen3_5ForConditionalGeneration

from saccade.core.shapes import ModelShape, Recurrent
from saccade.families.head_norms import HeadNorms
from saccade.families.qwen import QwenVL, text_part, tokens
from saccade.families.registry import register
from saccade.families.turning import Rotary

RECURRENT = "linear_attention"


@register
class Qwen3_5(HeadNorms, QwenVL):
    """Qwen3.5: most layers mix rows through a state (``recurs``), every fourth has attention.

    A dropped row enters no state. A row that skips attention in a layer that recurs has written the state,
    and gets 0; that spares nothing there, for the stock layer makes queries, keys and values in one.
    """

    name = "Qwen3.5"
    model_types = ("qwen3_5",)
    text_types = ("qwen3_5_text",)
    tower_can = ("merge_patches", "leave_patches")
    gated: ClassVar[bool] = True

    def config(
        self, shape: ModelShape, layers: int | None = None, vision_layers: int = 1
    ) -> PreTrainedConfig:
        return Qwen3_5Config(
            text_config=recurrent_text(shape, layers),
            vision_config={"depth": vision_layers, "out_hidden_size": shape.hidden},
            **tokens(shape),
        )

    def model_class(self) -> type[nn.Module]:
        return Qwen3_5ForConditionalGeneration

    def mixer(self, layer: Any) -> nn.Module:
        return layer.linear_attn if self.recurs(layer) else layer.self_attn

    def recurs(self, layer: Any) -> bool:
        return hasattr(layer, "linear_attn")

    def recurrent(self, config: PreTrainedConfig) -> Recurrent | None:
        text: Any = config.get_text_config()
        layers = tuple(n for n, kind in enumerate(text.layer_types) if kind == RECURRENT)
        return Recurrent(
            layers,
            key_heads=text.linear_num_key_heads,
            value_heads=text.linear_num_value_heads,
            key_dim=text.linear_key_head_dim,
            value_dim=text.linear_value_head_dim,
            kernel=text.linear_conv_kernel_dim,
        ) if layers else None  # fmt: skip

    def asking(
        self, attn: Any, x_BND: torch.Tensor, rotary: Rotary
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        both_BNHK = attn.q_proj(x_BND).unflatten(-1, (-1, 2 * attn.head_dim))
        queries_BNHK, gate_BNHK = both_BNHK.chunk(2, dim=-1)
        return self.turn(attn.q_norm(queries_BNHK).transpose(1, 2), rotary), gate_BNHK.flatten(2)

    def queries(self, attn: nn.Module, x_BND: torch.Tensor, rotary: Rotary) -> torch.Tensor:
        return self.asking(attn, x_BND, rotary)[0]

    def output(
        self, attn: Any, context_BHNK: torch.Tensor, gate_BND: torch.Tensor | None = None
    ) -> torch.Tensor:
        assert gate_BND is not None
        return attn.o_proj(context_BHNK.transpose(1, 2).flatten(2) * gate_BND.sigmoid())

    def norm_gain(self, norm: Any) -> tuple[torch.Tensor, float]:
        return 1 + norm.weight, float(norm.eps)

    def linears(self, layer: Any) -> dict[str, tuple[torch.Tensor, torch.Tensor | None]]:
        raise ValueError(
            f"{self.name} gates what its attention gives, and most of its layers have none, so the bounds, "
            "which go by the weights of attention, are not of it: leave bounds out of --what"
        )


def recurrent_text(shape: ModelShape, layers: int | None) -> dict[str, Any]:
    """Arguments of a text configuration of this shape, a quarter of whose heads turns."""
    turned, held = shape.head_dim // 8, shape.recurrent
    rope = {
        "partial_rotary_factor": 0.25,
        "mrope_section": [(turned + 2) // 3, (turned + 1) // 3, turned // 3],
        "mrope_interleaved": True,
    }
    text = text_part(shape, layers, rope)
    recurs = frozenset(() if held is None else held.layers)
    kinds = [RECURRENT if n in recurs else "full_attention" for n in range(text["num_hidden_layers"])]
    sizes = {} if held is None else {
        "linear_num_key_heads": held.key_heads,
        "linear_num_value_heads": held.value_heads,
        "linear_key_head_dim": held.key_dim,
        "linear_value_head_dim": held.value_dim,
        "linear_conv_kernel_dim": held.kernel,
    }  # fmt: skip
    return text | sizes | {"layer_types": kinds}
