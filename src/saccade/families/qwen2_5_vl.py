"""Qwen2.5-VL: grouped-query attention with biases, multimodal rotary positions, dynamic resolution."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import PreTrainedConfig, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.vision_utils import get_vision_window_index

from saccade.families.base import Family, Rotary, register, unwrap
from saccade.families.vision import Picture, Tower, of_grids
from saccade.shapes import ModelShape

if TYPE_CHECKING:
    from PIL.Image import Image


@register
class Qwen25VL(Family):
    """Qwen2.5-VL: its text loop hands out rotary tables already mixed by axis, so rows slice alike."""

    name = "Qwen2.5-VL"
    model_types = ("qwen2_5_vl",)
    text_types = ("qwen2_5_vl_text",)
    compact_positions = False
    layouts = ()  # its rows have the positions of a grid, and rows laid out anew are on none

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

    def rotary(self, decoder: nn.Module, hidden_BND: torch.Tensor, position_ids: torch.Tensor) -> Rotary:
        if position_ids.ndim == 2:
            position_ids = position_ids.expand(3, *position_ids.shape)
        # A fourth axis in front is that of the text, for packed sequences.
        return decoder.rotary_emb(hidden_BND, position_ids[-3:])

    def picture(self, model: nn.Module, inputs: Mapping[str, Any]) -> Picture | None:
        """Images, then videos; a video is one image whose frames (pairs of them) are planes and views."""
        config: Any = unwrap(model).config
        merge = config.vision_config.spatial_merge_size
        made, parts = inputs.get("mm_encoder_outputs") or {}, []
        for kind, pixels in (("image", "pixel_values"), ("video", "pixel_values_videos")):
            given = inputs.get(f"{kind}_grid_thw")
            grids = [] if given is None else [(int(t), int(h) // merge, int(w) // merge) for t, h, w in given]
            if made.get(kind) is not None:
                lengths = tuple(len(rows) for rows in made[kind].pooler_output)
                # The grids are those of the whole conversation, the features those of its last turn.
                grids = grids[max(len(grids) - len(lengths), 0) :]
                if tuple(math.prod(grid) for grid in grids) != lengths:
                    parts.append(Picture.unmapped(lengths))
                    continue
            elif inputs.get(pixels) is None:
                continue
            parts.append(of_grids(grids))
        return Picture.join(parts) if parts else None

    def tower(self, model: nn.Module) -> Tower | None:
        module: Any = self.parts(model).core.visual
        return Tower(
            module,
            module.blocks,
            states=(),
            made=module.blocks[-1].attn,
            reads=None,
            has_cls=False,
            merge=module.spatial_merge_unit,
            projector=None,
            strips=False,
        )

    def tower_heads(
        self, attn: nn.Module, x: torch.Tensor, kwargs: Mapping[str, Any], cls_only: bool
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        q_HPK, k_HPK, _ = attn.qkv(x).unflatten(-1, (3, attn.num_heads, -1)).permute(1, 2, 0, 3)
        cos, sin = (part.float() for part in kwargs["position_embeddings"])
        ends = kwargs["cu_seqlens"].tolist()
        q_HPK, k_HPK = (_turn(part.float(), cos, sin).to(x.dtype) for part in (q_HPK, k_HPK))
        return [(q_HPK[None, :, start:end], k_HPK[None, :, start:end]) for start, end in pairwise(ends)]

    def tower_order(self, module: nn.Module, kwargs: Mapping[str, Any]) -> torch.Tensor | None:
        index = kwargs.get("window_index")
        if index is None:
            index, _ = get_vision_window_index(
                kwargs["grid_thw"], module.spatial_merge_size, module.window_size, module.patch_size
            )
        return index.argsort()

    def smaller(
        self, processor: Any, images: list[Image], scale: float
    ) -> tuple[list[Image], dict[str, Any]]:
        size, small = processor.image_processor.size, []
        for image in images:
            area = image.width * image.height
            # What the model sees of an image is never more, and never less, than its processor allows.
            seen = min(max(area, size["shortest_edge"]), size["longest_edge"])
            fit = min(math.sqrt(max(seen * scale * scale, size["shortest_edge"]) / area), 1.0)
            small.append(image.resize((max(round(image.width * fit), 1), max(round(image.height * fit), 1))))
        return small, {}


def _turn(x_HPK: torch.Tensor, cos_PK: torch.Tensor, sin_PK: torch.Tensor) -> torch.Tensor:
    low, high = x_HPK.chunk(2, dim=-1)
    return x_HPK * cos_PK + torch.cat((-high, low), dim=-1) * sin_PK
