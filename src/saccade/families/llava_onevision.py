"""LLaVA-OneVision: tiles as in LLaVA-NeXT, interpolated where they are too many; videos, pooled."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedConfig,
    Qwen2Config,
    SiglipVisionConfig,
)

from saccade.core.shapes import ModelShape
from saccade.families.base import core_of, text_sizes, unwrap
from saccade.families.filmed import FilmedTiles, film
from saccade.families.interpolation import TOLERATED, ImageRows, pooled_videos
from saccade.families.registry import register
from saccade.families.vision import Picture, each_prompts, made_lengths

if TYPE_CHECKING:
    from PIL.Image import Image


@register
class LlavaOnevision(FilmedTiles):
    """LLaVA-OneVision: an image that is alone in its prompt has tiles, one among several a single view.

    Rows of tiles beyond the budget are interpolated between four patches, as those of a video are.
    """

    name = "LLaVA-OneVision"
    lays_by_count = True
    model_types = ("llava_onevision",)
    tower_can = ("merge_rows", "merge_patches")

    def config(
        self, shape: ModelShape, layers: int | None = None, vision_layers: int = 1
    ) -> PreTrainedConfig:
        vision = SiglipVisionConfig(
            hidden_size=1152,
            intermediate_size=4304,
            num_hidden_layers=vision_layers,
            num_attention_heads=16,
            image_size=384,
            patch_size=14,
            vision_use_head=False,
        )
        return LlavaOnevisionConfig(
            text_config=Qwen2Config(**text_sizes(shape, layers, 32768)),
            vision_config=vision,
            image_token_index=min(151646, shape.vocab - 2),
            video_token_index=min(151647, shape.vocab - 1),
        )

    def model_class(self) -> type[nn.Module]:
        return LlavaOnevisionForConditionalGeneration

    def processor_settings(self, config: PreTrainedConfig) -> dict[str, Any]:
        return {
            "num_image_tokens": (config.vision_config.image_size // config.vision_config.patch_size) ** 2,
            "vision_feature_select_strategy": config.vision_feature_select_strategy,
            "vision_aspect_ratio": config.vision_aspect_ratio,
        }

    def _views(self, config: Any, inputs: Mapping[str, Any], sizes: list[tuple[int, int]]) -> list[int]:
        tiled = self._alone(inputs, len(sizes))
        views = super()._views(config, inputs, sizes)
        return [count if alone else 1 for count, alone in zip(views, tiled, strict=True)]

    def _alone(self, inputs: Mapping[str, Any], images: int) -> list[bool]:
        """Whether each image is alone in its prompt, as the model is told; else it has one view."""
        counts = inputs.get("batch_num_images")
        return [True] * images if counts is None else [n == 1 for n in map(int, counts) for _ in range(n)]

    def _packed(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        patches: list[torch.Tensor],
        sizes: list[tuple[int, int]],
    ) -> list[torch.Tensor]:
        # Numbers cannot be interpolated: a budget that nothing exceeds.
        core, newline = core_of(model), torch.tensor([-1])
        return core.pack_image_features(patches, sizes, newline, f"anyres_max_{1 << 30}")[0]

    def _tiled(self, model: nn.Module, inputs: Mapping[str, Any], sizes: list[tuple[int, int]]) -> Picture:
        config: Any = unwrap(model).config
        shown, alone = super()._tiled(model, inputs, sizes), self._alone(inputs, len(sizes))
        side = config.vision_config.image_size // config.vision_config.patch_size
        budget = _budget(inputs.get("vision_aspect_ratio") or config.vision_aspect_ratio)
        parts, start = [], 0
        for size, tiled, rows in zip(sizes, alone, shown.lengths, strict=True):
            own = ImageRows.of(shown, start, rows)
            parts.append(own.within(budget, side) if tiled else own.padded(size))
            start += rows
        # Where rows are interpolated none is a patch, and none is missing.
        unseen = tuple(
            missing if len(part.line_N) == rows else missing[:0]
            for missing, part, rows in zip(shown.unseen, parts, shown.lengths, strict=True)
        )
        return replace(ImageRows.put(shown, parts), unseen=unseen)

    def _videos(self, model: nn.Module, inputs: Mapping[str, Any]) -> Picture | None:
        made, pixels = made_lengths(inputs, "video"), film(inputs)
        if made is None and pixels is None:
            return None
        vision: Any = unwrap(model).config.vision_config
        side = vision.image_size // vision.patch_size
        pooled = -(-side // 2)
        videos, frames = pixels.shape[:2] if made is None else (len(made), made[0] // pooled**2)
        if made is not None and set(made) != {frames * pooled**2 + 1}:
            return Picture.unmapped(made)
        return pooled_videos(videos, frames, side, side * vision.patch_size / vision.image_size)

    def by_prompt(self, processor: Any, texts: Sequence[str], images: Sequence[Image]) -> list[Any]:
        return each_prompts(processor.image_token, texts, images)

    def _fit(self, processor: Any, image: Image) -> float:
        fit, given = super()._fit(processor, image), processor.image_processor
        tile = given.size.get("height") or given.size["shortest_edge"]
        over = fit / tile * math.sqrt(image.width * image.height / _budget(processor.vision_aspect_ratio))
        return fit / over if over > TOLERATED else fit


def _budget(aspect: str) -> int:
    """Views that the tiles of an image may have rows of: the number at the end of ``anyres_max_9``."""
    return int(aspect.rpartition("_")[2])
