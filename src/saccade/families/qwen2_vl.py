"""Qwen2-VL: as Qwen2.5-VL, with a tower whose every layer sees the whole picture."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PreTrainedConfig, Qwen2VLConfig, Qwen2VLForConditionalGeneration

from saccade.core.shapes import ModelShape
from saccade.families.qwen import QwenVL, merger, text_part, thirds, tokens
from saccade.families.registry import register


@register
class Qwen2VL(QwenVL):
    """Qwen2-VL: its tower takes every picture, or pair of a video's frames, on its own, patches in order."""

    name = "Qwen2-VL"
    model_types = ("qwen2_vl",)
    text_types = ("qwen2_vl_text",)
    tower_can = ("merge_patches", "leave_patches")

    def config(
        self, shape: ModelShape, layers: int | None = None, vision_layers: int = 1
    ) -> PreTrainedConfig:
        return Qwen2VLConfig(
            text_config=text_part(shape, layers, {"mrope_section": thirds(shape.head_dim)}),
            vision_config={"depth": vision_layers, "hidden_size": shape.hidden},
            **tokens(shape),
        )

    def tower_sizes(self, vision: Any, decoder: int) -> dict[str, Any]:
        return {
            "width": vision.embed_dim,
            "ffn": int(vision.embed_dim * vision.mlp_ratio),
            "heads": vision.num_heads,
            "projector": merger(vision, vision.embed_dim, decoder),
        }

    def model_class(self) -> type[nn.Module]:
        return Qwen2VLForConditionalGeneration
