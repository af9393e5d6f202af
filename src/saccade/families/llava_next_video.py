"""LLaVA-NeXT-Video: LLaVA-NeXT, and frames whose patches are averaged two by two before the projector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers import (
    LlavaNextVideoConfig,
    LlavaNextVideoForConditionalGeneration,
    PreTrainedConfig,
)

from saccade.core.shapes import ModelShape
from saccade.families.base import unwrap
from saccade.families.filmed import FilmedTiles, film
from saccade.families.interpolation import averaged_videos
from saccade.families.llava import config_parts
from saccade.families.registry import register
from saccade.families.vision import MIXED, Picture, made_lengths


@register
class LlavaNextVideo(FilmedTiles):
    """LLaVA-NeXT-Video: a row of a video is the mean of its patches, and no newline row stands behind it.

    Frames that are pooled otherwise (``spatial_pool_mode``, ``spatial_pool_stride``) are rows without a
    place: methods that look at the tower or at places are refused for them.
    """

    name = "LLaVA-NeXT-Video"
    model_types = ("llava_next_video",)
    tower_can = ("merge_rows", "merge_patches")

    def config(
        self, shape: ModelShape, layers: int | None = None, vision_layers: int = 1
    ) -> PreTrainedConfig:
        parts = config_parts(shape, layers, vision_layers)
        image, video = min(32001, shape.vocab - 1), min(32000, shape.vocab - 2)
        tokens = {"image_token_index": image, "video_token_index": video}
        return LlavaNextVideoConfig(**parts | tokens)

    def model_class(self) -> type[nn.Module]:
        return LlavaNextVideoForConditionalGeneration

    def _videos(self, model: nn.Module, inputs: Mapping[str, Any]) -> Picture | None:
        made, pixels = made_lengths(inputs, "video"), film(inputs)
        if made is None and pixels is None:
            return None
        config: Any = unwrap(model).config
        vision, stride = config.vision_config, config.spatial_pool_stride
        size = vision.image_size if pixels is None else pixels.shape[-1]
        side = size // vision.patch_size
        rows = (side // stride) ** 2
        videos, frames = pixels.shape[:2] if made is None else (len(made), made[0] // rows)
        if made is not None and set(made) != {frames * rows}:
            return Picture.unmapped(made)
        if (config.spatial_pool_mode, stride**2) != ("average", MIXED):
            return Picture.unmapped((frames * rows,) * videos)
        return averaged_videos(videos, frames, side, side * vision.patch_size / size)
