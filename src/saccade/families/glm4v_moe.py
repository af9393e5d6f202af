"""GLM-4.5V and GLM-4.6V: the tower of GLM-4.1V, a decoder whose layers but the first have experts.

Shape letters: B batch, N rows, H heads, K head width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import Glm4vMoeConfig, Glm4vMoeForConditionalGeneration, PreTrainedConfig

from saccade.core.shapes import Experts, ModelShape
from saccade.families.experts import SparseFFN
from saccade.families.glm4v import Glm4v
from saccade.families.qwen import text_part, thirds
from saccade.families.registry import register
from saccade.families.turning import Rotary, rotate


@register
class Glm4vMoe(SparseFFN, Glm4v):
    """GLM-4.5V: half of a head turns, halves against each other; no norms after attention and FFN."""

    name = "GLM-4.5V"
    model_types = ("glm4v_moe",)
    text_types = ("glm4v_moe_text",)
    tower_can = ("leave_patches",)
    norms_outputs = False

    def config(
        self, shape: ModelShape, layers: int | None = None, vision_layers: int = 1
    ) -> PreTrainedConfig:
        rope = {"partial_rotary_factor": 0.5, "mrope_section": thirds(shape.head_dim // 2)}
        held, text = shape.experts or Experts(1, 1, shape.ffn), text_part(shape, layers, rope)
        experts: dict[str, Any] = {
            "intermediate_size": shape.plain_ffn or shape.ffn,
            "n_routed_experts": held.count,
            "num_experts_per_tok": held.chosen,
            "moe_intermediate_size": held.width,
            "n_shared_experts": held.shared // held.width,
            "first_k_dense_replace": len(shape.plain),
        }
        return Glm4vMoeConfig(
            text_config=text | experts,
            # What joins patches is as wide as the plain FFN.
            vision_config={
                "depth": vision_layers,
                "out_hidden_size": shape.hidden,
                "intermediate_size": experts["intermediate_size"],
            },
            image_token_id=min(151363, shape.vocab - 2),
            video_token_id=min(151364, shape.vocab - 1),
        )

    def model_class(self) -> type[nn.Module]:
        return Glm4vMoeForConditionalGeneration

    def experts(self, text: Any) -> Experts | None:
        width = text.moe_intermediate_size
        return Experts(text.n_routed_experts, text.num_experts_per_tok, width, text.n_shared_experts * width)

    def plain(self, text: Any) -> tuple[int, ...]:
        return tuple(range(min(text.first_k_dense_replace, text.num_hidden_layers)))

    def turn(self, x_BHNK: torch.Tensor, rotary: Rotary) -> torch.Tensor:
        return rotate(x_BHNK, rotary)

    def linears(self, layer: Any) -> dict[str, tuple[torch.Tensor, torch.Tensor | None]]:
        raise ValueError(
            f"most layers of {self.name} have experts, whose weights the bounds do not know: leave bounds "
            "out of --what"
        )
