"""Qwen3-VL with experts (30B-A3B, 235B-A22B): as the dense one, with a router before every FFN."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PreTrainedConfig, Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration

from saccade.core.shapes import Experts, ModelShape
from saccade.families.experts import SparseFFN
from saccade.families.qwen3_vl import Qwen3VL
from saccade.families.registry import register


@register
class Qwen3VLMoe(SparseFFN, Qwen3VL):
    """Qwen3-VL-MoE: rows that pass the FFN are routed to some of its experts, all others to none."""

    name = "Qwen3-VL-MoE"
    model_types = ("qwen3_vl_moe",)
    text_types = ("qwen3_vl_moe_text",)
    tower_can = ("merge_patches", "leave_patches")

    def config(
        self, shape: ModelShape, layers: int | None = None, vision_layers: int = 1
    ) -> PreTrainedConfig:
        dense: Any = super().config(shape, layers, vision_layers)
        held = shape.experts or Experts(0, 0, shape.ffn)
        text = dense.text_config.to_dict() | {
            "model_type": "qwen3_vl_moe_text",
            "num_experts": held.count,
            "num_experts_per_tok": held.chosen,
            "moe_intermediate_size": held.width,
        }
        vision = dense.vision_config.to_dict() | {"model_type": "qwen3_vl_moe_vision"}
        tokens = {key: getattr(dense, key) for key in ("image_token_id", "video_token_id")}
        return Qwen3VLMoeConfig(text_config=text, vision_config=vision, **tokens)

    def model_class(self) -> type[nn.Module]:
        return Qwen3VLMoeForConditionalGeneration
