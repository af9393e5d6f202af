"""Idefics3 and SmolVLM: tiles of a picture, then the whole of it, each joined to few rows by a connector.

Shape letters: B batch, N rows, T views, H heads, P patches, K head width.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isqrt
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn
from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3Model,
    LlamaConfig,
    PreTrainedConfig,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

from saccade.core.shapes import SHAPES, ModelShape
from saccade.core.tower import TowerShape
from saccade.families.base import core_of, text_sizes, unwrap
from saccade.families.patch_tower import PatchTower, joined_tower
from saccade.families.registry import register
from saccade.families.tiles import marked, put_together, whole_and_tiles
from saccade.families.tower_shape import encoder
from saccade.families.vision import Box, Picture, Tower, each_prompts, joined, made_lengths, of_patches

if TYPE_CHECKING:
    from PIL.Image import Image

BY_SAMPLE = "mm_encoder_outputs" in inspect.signature(Idefics3Model.forward).parameters
"""Whether features come sample by sample; in earlier releases view by view."""


@register
class Idefics3(PatchTower):
    """Idefics3: the model gets the views of each sample; the prompt tells which of them are one image.

    What stands before the last view of a sample stands before every view of a whole picture, and no other:
    the processor writes the place of each tile, then the whole. So an image ends with such a view, plane 0;
    every tile is a plane of its own, and ``crops`` says where it lies. Marks between tiles are text. A row
    joins a square of patches: what the tower says of it is their mean, and what is merged are embeddings.
    """

    name = "Idefics3"
    model_types = ("idefics3",)
    text_types = ("llama",)
    tower_can = ("merge_patches",)
    decoder_name = "text_model"
    tower_modules: ClassVar[tuple[str, ...]] = ("model.vision_model", "model.connector")
    image_inputs = ("pixel_values", "mm_encoder_outputs", "image_hidden_states")

    def view_patches(self, config: PreTrainedConfig) -> int | None:
        settings: Any = config
        side = settings.vision_config.image_size // settings.vision_config.patch_size
        return (side // settings.scale_factor) ** 2

    def typical_visual(self, config: PreTrainedConfig) -> int:
        """Of a picture of 4 by 3: twelve tiles and the whole."""
        return 13 * (self.view_patches(config) or 0)

    def processor_settings(self, config: PreTrainedConfig) -> dict[str, Any]:
        return {"image_seq_len": self.view_patches(config)}

    def config(
        self, shape: ModelShape, layers: int | None = None, vision_layers: int = 1
    ) -> PreTrainedConfig:
        return Idefics3Config(**_parts(shape, layers, vision_layers))

    def model_class(self) -> type[nn.Module]:
        return Idefics3ForConditionalGeneration

    def tower_shape(self, config: PreTrainedConfig) -> TowerShape | None:
        settings: Any = config
        vision, side = settings.vision_config, settings.scale_factor
        width = config.get_text_config().hidden_size
        return encoder(
            vision,
            width,
            projector=((vision.hidden_size * side**2, width),),
            side=vision.image_size // vision.patch_size // side,
            merge=side**2,
            cls=0,
            pooled=False,
        )

    def picture(self, model: nn.Module, inputs: Mapping[str, Any]) -> Picture | None:
        """Views of a sample are an image here (in early releases each); ``grouped`` tells them apart."""
        config: Any = unwrap(model).config
        made, pixels = made_lengths(inputs), inputs.get("pixel_values")
        if made is not None:
            rows = self.view_patches(config) or 1
            if any(length % rows for length in made):
                return Picture.unmapped(made)
            views = tuple(length // rows for length in made)
            side, pixel = isqrt(rows), config.vision_config.image_size
        elif pixels is None:
            return None
        else:
            # As the model does: views of nothing but zeros fill samples up.
            real_BT = (pixels != 0).flatten(2).any(2)
            if not bool(real_BT.any()):
                real_BT[0, 0] = True
            views = tuple(real_BT.sum(1).tolist())
            if not BY_SAMPLE:
                views = (1,) * sum(views)
            pixel = pixels.shape[-1]
            side = pixel // config.vision_config.patch_size // config.scale_factor
            mask = inputs.get("pixel_attention_mask")
            if pixels.shape[-2] != pixels.shape[-1] or (mask is not None and not bool(mask[real_BT].all())):
                return Picture.unmapped(tuple(n * side * side for n in views))
        lengths = tuple(n * side * side for n in views)
        shown = of_patches(torch.arange(sum(lengths)), lengths, views, side, side)
        cover = side * config.scale_factor * config.vision_config.patch_size / pixel
        return replace(shown, box_R4=shown.box_R4 * cover)

    def grouped(self, model: nn.Module, picture: Picture, inputs: Mapping[str, Any]) -> Picture:
        ids, embeds = inputs.get("input_ids"), inputs.get("inputs_embeds")
        if ids is None and embeds is None:
            return picture
        lengths = marked(self.visual_mask(model, ids, embeds), ids, embeds, "before")
        total = sum(picture.lengths)
        if sum(lengths) != total or not picture.mapped:
            return picture if sum(lengths) != total else Picture.unmapped(lengths)
        rows = total // max(sum(picture.views), 1)
        if any(length % rows for length in lengths):
            return picture
        return put_together(picture, lengths, [length // rows for length in lengths])

    def by_prompt(self, processor: Any, texts: Sequence[str], images: Sequence[Image]) -> list[Any]:
        return each_prompts(processor.image_token, texts, images)

    def crops(self, processor: Any, image: Image) -> list[Box]:
        found = processor.image_processor.get_number_of_image_patches(image.height, image.width, {})
        lines, columns = found[1:]
        return whole_and_tiles(lines, columns) if lines * columns else []

    def tower(self, model: nn.Module) -> Tower | None:
        core: Any = core_of(model)
        heads = core.config.vision_config.num_attention_heads
        return replace(joined_tower(core.vision_model, heads, core.config.scale_factor**2), carries=False)

    def tower_order(self, tower: Tower, kwargs: Mapping[str, Any]) -> torch.Tensor | None:
        pixels, module = kwargs["pixel_values"], tower.module
        config: Any = module.config
        lines, columns = (int(n) // config.patch_size for n in pixels.shape[-2:])
        return joined([(lines, columns)] * len(pixels), isqrt(tower.merge))

    def smaller(
        self, processor: Any, images: list[Image], scale: float
    ) -> tuple[list[Image], dict[str, Any]]:
        """Fewer tiles: the longest side becomes fewer of them; one view is the least."""
        given = processor.image_processor
        longest, tile = given.size["longest_edge"], given.max_image_size["longest_edge"]
        return images, {"size": {"longest_edge": max(round(longest * scale / tile), 1) * tile}}


@register
class SmolVLM(Idefics3):
    """SmolVLM and SmolVLM2: as Idefics3; each frame of a video is an image of one view."""

    name = "SmolVLM"
    model_types = ("smolvlm",)
    tower_can = ("merge_patches",)
    films, frames_apart, by_rate = True, True, True
    beside_images = False  # its processor gives both one name, and the videos' take the images' place

    def config(
        self, shape: ModelShape, layers: int | None = None, vision_layers: int = 1
    ) -> PreTrainedConfig:
        return SmolVLMConfig(**_parts(shape, layers, vision_layers))

    def model_class(self) -> type[nn.Module]:
        return SmolVLMForConditionalGeneration


def _parts(shape: ModelShape, layers: int | None, vision_layers: int) -> dict[str, Any]:
    """Arguments of a configuration: a decoder of this shape and its tower, or SmolVLM2's."""
    tower = shape.tower
    if tower is None or tower.side is None or isqrt(tower.merge) < 2:
        tower = SHAPES["smolvlm2-2.2b"].tower
    assert tower is not None and tower.side is not None
    scale, patch = isqrt(tower.merge), isqrt(tower.inputs // 3)
    return {
        "text_config": LlamaConfig(**text_sizes(shape, layers, 8192)).to_dict(),
        "vision_config": {
            "hidden_size": tower.width,
            "intermediate_size": tower.ffn,
            "num_hidden_layers": vision_layers,
            "num_attention_heads": tower.heads,
            "image_size": tower.side * scale * patch,
            "patch_size": patch,
        },
        "scale_factor": scale,
        "image_token_id": min(49190, shape.vocab - 1),
        "tie_word_embeddings": False,
    }
