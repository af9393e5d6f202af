"""LLaVA-1.5 and LLaVA-NeXT (Llama, Mistral or Qwen2 text decoders)."""

from __future__ import annotations

from torch import nn
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    PreTrainedConfig,
)

from saccade.families.base import Family, register
from saccade.shapes import ModelShape


@register
class Llava(Family):
    """LLaVA-1.5: one run of placeholders per image, all visual rows of the vision tower's grid."""

    name = "LLaVA-1.5"
    model_types = ("llava",)
    text_types = ("llama", "mistral", "qwen2")

    def visual_ids(self, config: PreTrainedConfig) -> tuple[int, ...]:
        return (config.image_token_id,)

    def typical_visual(self, config: PreTrainedConfig) -> int:
        vision = config.vision_config
        return (vision.image_size // vision.patch_size) ** 2

    def config(
        self, shape: ModelShape, layers: int | None = None, vision_layers: int = 1
    ) -> PreTrainedConfig:
        return LlavaConfig(**_parts(shape, layers, vision_layers))

    def model_class(self) -> type[nn.Module]:
        return LlavaForConditionalGeneration


@register
class LlavaNext(Llava):
    """LLaVA-NeXT: a base view, anyres tiles and newline tokens, all of them placeholder rows of one run."""

    name = "LLaVA-NeXT"
    model_types = ("llava_next",)

    def typical_visual(self, config: PreTrainedConfig) -> int:
        return super().typical_visual(config) * 5

    def config(
        self, shape: ModelShape, layers: int | None = None, vision_layers: int = 1
    ) -> PreTrainedConfig:
        return LlavaNextConfig(**_parts(shape, layers, vision_layers))

    def model_class(self) -> type[nn.Module]:
        return LlavaNextForConditionalGeneration


def _parts(shape: ModelShape, layers: int | None, vision_layers: int) -> dict:
    text = LlamaConfig(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.ffn,
        num_hidden_layers=shape.layers if layers is None else layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=8192,
    )
    vision = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=vision_layers,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
        projection_dim=768,
    )
    layer = -2 if vision_layers > 1 else -1
    return {
        "text_config": text,
        "vision_config": vision,
        "image_token_index": min(32000, shape.vocab - 1),
        "vision_feature_layer": layer,
    }
