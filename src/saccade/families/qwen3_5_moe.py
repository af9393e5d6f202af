"""Qwen3.5 with experts (35B-A3B and larger): as the dense one, with a router before every FFN."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PreTrainedConfig, Qwen3_5MoeConfig, Qwen3_5MoeForConditionalGeneration

from saccade.core.shapes import Experts, ModelShape
from saccade.families.experts import SparseFFN
from saccade.families.qwen import tokens
from saccade.families.qwen3_5 import Qwen3_5, recurrent_text
from saccade.families.registry import register


@register
class Qwen3_5Moe(SparseFFN, Qwen3_5):
    """Qwen3.5-MoE: rows that pass the FFN go through some of its experts, and one that all go through."""

    name = "Qwen3.5-MoE"
    model_types = ("qwen3_5_moe",)
    text_types = ("qwen3_5_moe_text",)
    tower_can = ("merge_patches", "leave_patches")

    def config(
        self, shape: ModelShape, layers: int | None = None, vision_layers: int = 1
    ) -> PreTrainedConfig:
        held, text = shape.experts or Experts(1, 1, shape.ffn), recurrent_text(shape, layers)
        del text["intermediate_size"]
        experts: dict[str, Any] = {
            "num_experts": held.count,
            "num_experts_per_tok": held.chosen,
            "moe_intermediate_size": held.width,
            "shared_expert_intermediate_size": held.shared,
        }
        return Qwen3_5MoeConfig(
            text_config=text | experts,
            vision_config={"depth": vision_layers, "out_hidden_size": shape.hidden},
            **tokens(shape),
        )

    def model_class(self) -> type[nn.Module]:
        return Qwen3_5MoeForConditionalGeneration
