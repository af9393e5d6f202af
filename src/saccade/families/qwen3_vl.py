"""Qwen3-VL (dense text decoder): norms on query and key heads, interleaved positions, DeepStack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers import PreTrainedConfig, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from saccade.core.shapes import ModelShape
from saccade.families.deepstack import Added
from saccade.families.head_norms import HeadNorms
from saccade.families.qwen import QwenVL, merger, text_part, tokens
from saccade.families.registry import register

DEEPSTACK = (8, 16, 24)
"""Layers of the tower of the 8B model whose states the decoder gets as well."""


@register
class Qwen3VL(HeadNorms, QwenVL):
    """Qwen3-VL: after its first layers the decoder adds states of earlier tower layers to the visual rows.

    The frames of a video (pairs of them) stand apart in the prompt, each after its time; all rows of a video
    count as one image.
    """

    name = "Qwen3-VL"
    model_types = ("qwen3_vl",)
    text_types = ("qwen3_vl_text",)
    tower_can = ("merge_patches", "leave_patches")

    def config(
        self, shape: ModelShape, layers: int | None = None, vision_layers: int = 1
    ) -> PreTrainedConfig:
        side = shape.head_dim // 2 * 5 // 16
        rope = {"mrope_section": [shape.head_dim // 2 - 2 * side, side, side], "mrope_interleaved": True}
        text = text_part(shape, layers, rope)
        return Qwen3VLConfig(
            text_config=text,
            vision_config={
                "depth": vision_layers,
                "out_hidden_size": shape.hidden,
                "deepstack_visual_indexes": sorted({min(n, vision_layers - 1) for n in DEEPSTACK}),
            },
            **tokens(shape),
        )

    def tower_sizes(self, vision: Any, decoder: int) -> dict[str, Any]:
        joiners = 1 + len(vision.deepstack_visual_indexes)
        return super().tower_sizes(vision, decoder) | {
            "projector": merger(vision, vision.hidden_size, decoder) * joiners
        }

    def model_class(self) -> type[nn.Module]:
        return Qwen3VLForConditionalGeneration

    def joiners(self, module: nn.Module) -> list[nn.Module]:
        tower: Any = module
        return [*super().joiners(module), *tower.deepstack_merger_list]

    def added(self, given: Mapping[str, Any]) -> Added | None:
        features = given.get("deepstack_visual_embeds")
        if features is None:
            return None
        return Added("deepstack_visual_embeds", given["visual_pos_masks"], features)
