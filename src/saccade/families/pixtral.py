"""Pixtral: pictures of any size, in lines of rows with a mark after each; its tower, which Mistral 3 has too.

Shape letters: S patches of all pictures, one sequence; H heads, P patches of one picture, K head width.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from math import isqrt, prod
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn
from transformers import (
    LlavaConfig,
    LlavaForConditionalGeneration,
    MistralConfig,
    PixtralVisionConfig,
    PreTrainedConfig,
)

from saccade.core.shapes import ModelShape
from saccade.core.tower import TowerShape
from saccade.families.base import Family, core_of, heads_of, text_sizes, unwrap
from saccade.families.registry import register
from saccade.families.tower_shape import encoder
from saccade.families.turning import rotate
from saccade.families.vision import Picture, Tower, joined, made_lengths, of_grids

if TYPE_CHECKING:
    from PIL.Image import Image


class PixtralTower(Family):
    """The part of an adapter with this tower, in which every picture sees itself alone.

    Marks that end a line or a picture are text, so the rows of a picture stand apart.
    """

    text_types: ClassVar[tuple[str, ...]] = ("mistral",)

    def joins(self, config: Any) -> int:
        """Patches along each side of the square that a row joins."""
        return 1

    def typical_visual(self, config: PreTrainedConfig) -> int:
        """Of the largest square picture."""
        return (config.vision_config.image_size // self._cell(config)) ** 2

    def processor_settings(self, config: PreTrainedConfig) -> dict[str, Any]:
        return {"patch_size": config.vision_config.patch_size, "spatial_merge_size": self.joins(config)}

    def picture(self, model: nn.Module, inputs: Mapping[str, Any]) -> Picture | None:
        made, sizes = made_lengths(inputs), inputs.get("image_sizes")
        if sizes is None or (made is None and inputs.get("pixel_values") is None):
            return None if made is None else Picture.unmapped(made)
        cell = self._cell(unwrap(model).config)
        grids = [(1, int(high) // cell, int(wide) // cell) for high, wide in sizes]
        if made is None:
            return of_grids(grids)
        # The sizes are those of the whole conversation, the features those of its last turn.
        grids = grids[max(len(grids) - len(made), 0) :]
        return of_grids(grids) if tuple(map(prod, grids)) == made else Picture.unmapped(made)

    def _cell(self, config: Any) -> int:
        """Side of a row in pixels."""
        return config.vision_config.patch_size * self.joins(config)

    def tower_shape(self, config: PreTrainedConfig) -> TowerShape | None:
        """Of a picture alone: pairs of two pictures' patches, which the stock tower masks, are not in it."""
        settings: Any = config
        vision, side, width = settings.vision_config, self.joins(config), config.get_text_config().hidden_size
        chosen = settings.vision_feature_layer
        if vision.model_type != "pixtral" or not isinstance(chosen, int):
            return None
        joined = ((vision.hidden_size * side**2, vision.hidden_size),) if side > 1 else ()
        made = chosen % (vision.num_hidden_layers + 1)
        return encoder(
            vision,
            width,
            projector=(*joined, (vision.hidden_size, width), (width, width)),
            side=None,
            merge=side**2,
            gated=True,
            made=made,
            reads=0 < made < vision.num_hidden_layers,
        )

    def tower(self, model: nn.Module) -> Tower | None:
        core: Any = core_of(model)
        config: Any = core.config
        chosen, side = config.vision_feature_layer, self.joins(config)
        if config.vision_config.model_type != "pixtral" or not isinstance(chosen, int):
            return None
        layers = core.vision_tower.transformer.layers
        state = chosen % (len(layers) + 1)
        return Tower(
            core.vision_tower,
            layers,
            states=(state,) if side == 1 else (),
            made=layers[state - 1].attention if state else None,
            reads=layers[state].attention if state < len(layers) else None,
            heads=config.vision_config.num_attention_heads,
            has_cls=False,
            merge=side * side,
            projector=core.multi_modal_projector if side == 1 else None,
            strips=False,
            attention="attention",
        )

    def tower_heads(
        self, attn: nn.Module, x: torch.Tensor, kwargs: Mapping[str, Any], cls_only: bool
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        cos, sin = (part[None] for part in kwargs["position_embeddings"])
        q_1HSK, k_1HSK = (
            rotate(heads_of(project(x), attn.head_dim), (cos, sin)) for project in (attn.q_proj, attn.k_proj)
        )
        ends = _ends(x.shape[1], kwargs)
        return [(q_1HSK[:, :, start:end], k_1HSK[:, :, start:end]) for start, end in pairwise(ends)]

    def tower_order(self, tower: Tower, kwargs: Mapping[str, Any]) -> torch.Tensor | None:
        if tower.merge == 1:
            return None
        config: Any = tower.module.config
        sides = ((int(high), int(wide)) for high, wide in kwargs["image_sizes"])
        grids = [(high // config.patch_size, wide // config.patch_size) for high, wide in sides]
        return joined(grids, isqrt(tower.merge))

    def smaller(
        self, processor: Any, images: list[Image], scale: float
    ) -> tuple[list[Image], dict[str, Any]]:
        """What the model sees of a large picture is that within its processor's limit, which gets smaller."""
        longest, small = processor.image_processor.size["longest_edge"], []
        for image in images:
            fit = min(longest / max(image.size), 1.0) * scale
            small.append(image.resize((max(round(image.width * fit), 1), max(round(image.height * fit), 1))))
        return small, {}


@register
class Pixtral(PixtralTower):
    """Pixtral: LLaVA's class with this tower, a row for every patch."""

    name = "Pixtral"
    model_types = ("llava+pixtral",)

    def config(
        self, shape: ModelShape, layers: int | None = None, vision_layers: int = 1
    ) -> PreTrainedConfig:
        return LlavaConfig(
            text_config=MistralConfig(**text_sizes(shape, layers, 131072), sliding_window=None),
            vision_config=PixtralVisionConfig(num_hidden_layers=vision_layers),
            image_token_index=min(10, shape.vocab - 1),
            vision_feature_layer=-1,
            vision_feature_select_strategy="full",
        )

    def model_class(self) -> type[nn.Module]:
        return LlavaForConditionalGeneration


def _ends(patches: int, kwargs: Mapping[str, Any]) -> list[int]:
    """Where pictures begin in the tower's sequence, and the end of the last."""
    mask, ends = kwargs.get("attention_mask"), kwargs.get("cu_seq_lens_q")
    if ends is not None:
        return ends.tolist()
    if mask is None:
        return [0, patches]
    # Each picture sees itself alone: the first patch that a patch sees is the first of its picture.
    firsts = (mask[0, 0] == 0).int().argmax(-1).unique_consecutive()
    return [*firsts.tolist(), patches]
