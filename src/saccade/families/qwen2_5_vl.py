"""Qwen2.5-VL: grouped-query attention with biases, multimodal rotary positions, dynamic resolution."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.vision_utils import get_vision_window_index

from saccade.core.shapes import ModelShape
from saccade.families.qwen import QwenVL, text_part, thirds, tokens
from saccade.families.registry import register
from saccade.families.vision import Tower

FULL = (7, 15, 23, 31)
"""Layers of the 7B model's tower that see the whole picture."""


@register
class Qwen25VL(QwenVL):
    """Qwen2.5-VL: most layers of its tower see windows, so patches pass it in another order."""

    name = "Qwen2.5-VL"
    model_types = ("qwen2_5_vl",)
    text_types = ("qwen2_5_vl_text",)
    tower_can = ("merge_patches", "leave_patches")

    def config(
        self, shape: ModelShape, layers: int | None = None, vision_layers: int = 1
    ) -> PreTrainedConfig:
        return Qwen2_5_VLConfig(
            text_config=text_part(shape, layers, {"mrope_section": thirds(shape.head_dim)}),
            vision_config={
                "depth": vision_layers,
                "hidden_size": 1280,
                "out_hidden_size": shape.hidden,
                "fullatt_block_indexes": sorted({min(n, vision_layers - 1) for n in FULL}),
            },
            **tokens(shape),
        )

    def tower_sizes(self, vision: Any, decoder: int) -> dict[str, Any]:
        return super().tower_sizes(vision, decoder) | {
            "gated": True,
            "window": vision.window_size // vision.spatial_merge_size // vision.patch_size,
            "full": tuple(vision.fullatt_block_indexes),
        }

    def model_class(self) -> type[nn.Module]:
        return Qwen2_5_VLForConditionalGeneration

    def tower_order(self, tower: Tower, kwargs: Mapping[str, Any]) -> torch.Tensor | None:
        # The windows are of rows: their patches move together.
        first = _windows(tower.module, kwargs)[0].argsort()[:, None] * tower.merge
        return (first + torch.arange(tower.merge, device=first.device)).flatten()

    def tower_cells(self, module: nn.Module, kwargs: Mapping[str, Any]) -> list[int]:
        return [patches for patches in _windows(module, kwargs)[1].diff().tolist() if patches]


def _windows(module: nn.Module, kwargs: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows in the order of the windows that they are in, and where windows end, in patches, 0 first."""
    tower: Any = module
    index, ends = kwargs.get("window_index"), kwargs.get("cu_window_seqlens")
    if index is None or ends is None:
        index, ends = get_vision_window_index(
            kwargs["grid_thw"], tower.spatial_merge_size, tower.window_size, tower.patch_size
        )
    return index, ends
