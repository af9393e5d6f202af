"""What the families on Gemma decoders share: norms around both halves of a layer, pictures of one size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import PreTrainedConfig, SiglipVisionConfig

from saccade.families.base import unwrap
from saccade.families.head_norms import HeadNorms
from saccade.families.patch_tower import PatchTower
from saccade.families.vision import Picture, made_lengths, of_patches, square


class Gemma(PatchTower, HeadNorms):
    """The part of an adapter whose decoder is a Gemma's; a layer norms what it adds to the residual stream.

    What a row that skips gets is 0 before that norm, and so after it.
    """

    norms_outputs = True
    layouts: ClassVar[
        tuple[str, ...]
    ] = ()  # rows laid out anew would be in no block of rows that see each other

    def picture(self, model: nn.Module, inputs: Mapping[str, Any]) -> Picture | None:
        rows, made = self.typical_visual(unwrap(model).config), made_lengths(inputs)
        pixels, side = inputs.get("pixel_values"), square(rows)
        if made is None and pixels is None:
            return None
        views = len(pixels if made is None else made)
        if side is None or (made is not None and set(made) - {rows}):
            return Picture.unmapped((rows,) * views if made is None else made)
        return of_patches(torch.arange(views * rows), (rows,) * views, (1,) * views, side, side)

    def fingerprint(self, config: PreTrainedConfig) -> dict[str, Any]:
        text = config.get_text_config()
        kinds = {"layer_types": list(text.layer_types), "sliding_window": text.sliding_window}
        return super().fingerprint(config) | kinds

    def norms(self, layer: Any) -> tuple[nn.Module, nn.Module]:
        return layer.input_layernorm, layer.pre_feedforward_layernorm

    def norm_gain(self, norm: Any) -> tuple[torch.Tensor, float]:
        return 1 + norm.weight, float(norm.eps)

    def activation(self, config: PreTrainedConfig) -> str:
        return str(config.get_text_config().hidden_activation)

    def linears(self, layer: Any) -> dict[str, tuple[torch.Tensor, torch.Tensor | None]]:
        raise ValueError(
            f"the decoder of this {self.name} model norms what attention and FFN give before it is added, so "
            "the bounds are not of it: leave bounds out of --what"
        )


def siglip(layers: int, side: int, **more: Any) -> SiglipVisionConfig:
    """The towers of published models, for pictures of this side."""
    return SiglipVisionConfig(
        hidden_size=1152,
        intermediate_size=4304,
        num_hidden_layers=layers,
        num_attention_heads=16,
        image_size=side,
        patch_size=14,
        vision_use_head=False,
        **more,
    )
