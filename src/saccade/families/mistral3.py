"""Mistral 3: pictures of any size in lines of rows, each with a mark after it, and four patches to a row."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import (
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    MistralConfig,
    PixtralVisionConfig,
    PreTrainedConfig,
)

from saccade.core.shapes import ModelShape
from saccade.families.base import text_sizes
from saccade.families.pixtral import PixtralTower
from saccade.families.registry import register


@register
class Mistral3(PixtralTower):
    """Mistral 3: what the tower says of a row is the mean of its patches; what is merged are embeddings."""

    name = "Mistral 3"
    model_types = ("mistral3",)

    def config(
        self, shape: ModelShape, layers: int | None = None, vision_layers: int = 1
    ) -> PreTrainedConfig:
        return Mistral3Config(
            text_config=MistralConfig(**text_sizes(shape, layers, 131072), sliding_window=None),
            vision_config=PixtralVisionConfig(
                num_hidden_layers=vision_layers, image_size=1540, patch_size=14
            ),
            image_token_index=min(10, shape.vocab - 1),
            tie_word_embeddings=False,
        )

    def model_class(self) -> type[nn.Module]:
        return Mistral3ForConditionalGeneration

    def joins(self, config: Any) -> int:
        return config.spatial_merge_size
