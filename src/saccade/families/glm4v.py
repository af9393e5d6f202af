"""GLM-4.1V, and GLM-4.6V without experts: laid out as Qwen-VL, with norms after attention and FFN, and half
of every head turned.

Shape letters: B batch, N rows, D hidden, H heads, K head width, R turned part of it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import Glm4vConfig, Glm4vForConditionalGeneration, PreTrainedConfig

from saccade.core.shapes import ModelShape
from saccade.families.qwen import QwenVL, text_part, thirds
from saccade.families.registry import register
from saccade.families.turning import Rotary, rotate_pairs
from saccade.families.vision import Tower


@register
class Glm4v(QwenVL):
    """GLM-4.1V: a row that skips gets 0 of attention or FFN, and the norm after it leaves that 0.

    Frames of a video stand apart in the prompt, each after its time, and have the placeholder of pictures;
    all rows of a video count as one image.
    """

    name = "GLM-4.1V"
    model_types: ClassVar[tuple[str, ...]] = ("glm4v", "glm46v")
    text_types = ("glm4v_text",)
    tower_can = ("leave_patches",)
    norms_outputs = True
    beside_images = False  # both have one placeholder, and the stock model counts them together
    by_rate = True

    def visual_ids(self, config: PreTrainedConfig) -> tuple[int, ...]:
        return (config.image_token_id,)

    def config(
        self, shape: ModelShape, layers: int | None = None, vision_layers: int = 1
    ) -> PreTrainedConfig:
        rope = {"partial_rotary_factor": 0.5, "mrope_section": thirds(shape.head_dim // 2)}
        return Glm4vConfig(
            text_config=text_part(shape, layers, rope),
            vision_config={"depth": vision_layers, "out_hidden_size": shape.hidden},
            image_token_id=min(151343, shape.vocab - 2),
            video_token_id=min(151344, shape.vocab - 1),
        )

    def model_class(self) -> type[nn.Module]:
        return Glm4vForConditionalGeneration

    def tower_sizes(self, vision: Any, decoder: int) -> dict[str, Any]:
        joined, wide = vision.hidden_size * vision.spatial_merge_size**2, vision.out_hidden_size
        inner = vision.intermediate_size
        return super().tower_sizes(vision, decoder) | {
            "ffn": wide,
            "gated": True,
            "projector": ((joined, wide), (wide, wide), (wide, inner), (wide, inner), (inner, wide)),
        }

    def tower(self, model: nn.Module) -> Tower | None:
        module: Any = self.parts(model).core.visual
        found = super().tower(model)
        follows = (module.post_layernorm, module.downsample, module.merger)
        return None if found is None else replace(found, follows=follows)

    def limits(self, image_processor: Any) -> tuple[float, float]:
        # Its limits are of as many frames as make one, which a picture is repeated to.
        least, most = super().limits(image_processor)
        return least / image_processor.temporal_patch_size, most / image_processor.temporal_patch_size

    def turn(self, x_BHNK: torch.Tensor, rotary: Rotary) -> torch.Tensor:
        return rotate_pairs(x_BHNK, rotary)

    def linears(self, layer: Any) -> dict[str, tuple[torch.Tensor, torch.Tensor | None]]:
        raise ValueError(
            f"{self.name} norms what attention and FFN add, so the bounds, which go by the weights of their "
            "projections, are not of it: leave bounds out of --what"
        )
