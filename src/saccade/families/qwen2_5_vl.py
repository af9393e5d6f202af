"""Qwen2.5-VL: grouped-query attention with biases, multimodal rotary positions, dynamic resolution."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedConfig, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from saccade.families.base import Family, register
from saccade.shapes import ModelShape


@register
class Qwen25VL(Family):
    """Qwen2.5-VL: its text loop hands out rotary tables already mixed by axis, so rows slice alike."""

    name = "Qwen2.5-VL"
    model_types = ("qwen2_5_vl",)
    text_types = ("qwen2_5_vl_text",)

    def visual_ids(self, config: PreTrainedConfig) -> tuple[int, ...]:
        return (config.image_token_id, config.video_token_id)

    def typical_visual(self, config: PreTrainedConfig) -> int:
        return 1280

    def config(
        self, shape: ModelShape, layers: int | None = None, vision_layers: int = 1
    ) -> PreTrainedConfig:
        half = shape.head_dim // 2
        section = [half // 4, (half - half // 4) // 2, half - half // 4 - (half - half // 4) // 2]
        return Qwen2_5_VLConfig(
            text_config={
                "vocab_size": shape.vocab,
                "hidden_size": shape.hidden,
                "intermediate_size": shape.ffn,
                "num_hidden_layers": shape.layers if layers is None else layers,
                "num_attention_heads": shape.heads,
                "num_key_value_heads": shape.kv_heads,
                "max_position_embeddings": 32768,
                "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": section},
            },
            vision_config={
                "depth": vision_layers,
                "out_hidden_size": shape.hidden,
                "fullatt_block_indexes": [0],
            },
            image_token_id=min(151655, shape.vocab - 2),
            video_token_id=min(151656, shape.vocab - 1),
        )

    def model_class(self) -> type[nn.Module]:
        return Qwen2_5_VLForConditionalGeneration
