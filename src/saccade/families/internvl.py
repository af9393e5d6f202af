"""InternVL as transformers has it: square views, each joined two by two patches, tiles before a thumbnail.

Shape letters: B batch, N rows, T views, P patches of a view, H heads, K head width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.functional import pad
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    PreTrainedConfig,
    Qwen2Config,
)
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

from saccade.core.shapes import ModelShape
from saccade.core.tower import TowerShape
from saccade.families.base import core_of, heads_of, text_sizes, unwrap
from saccade.families.experts import SparseFFN
from saccade.families.head_norms import HeadNorms
from saccade.families.registry import register
from saccade.families.tiles import filled, put_together, whole_and_tiles
from saccade.families.vision import Box, Picture, Tower, joined, made_lengths, of_patches, square

if TYPE_CHECKING:
    from PIL.Image import Image

JOINED = 2
"""Patches along each side of the square that a row joins, of every published model."""


@register
class InternVL(SparseFFN, HeadNorms):
    """InternVL: the model gets views without knowing how many are of one image, and how tiles lie.

    The prompt tells the first: an unbroken run of placeholders is an image, as its processor writes them (so
    each frame of a video is one). The last view of several is the thumbnail, plane 0; every tile is a plane
    of its own, and ``crops`` says where it lies. A row joins four patches: what the tower says of it is their
    mean, and what is merged are embeddings. CLS, whose attention ranks patches, is never a row.
    """

    name = "InternVL"
    model_types = ("internvl",)
    text_types = ("qwen2", "qwen3", "qwen3_moe", "llama")
    tower_can = ("merge_patches",)
    films, frames_apart = True, True
    layouts = ()  # what stands in its projector's place gets four patches in one

    def visual_ids(self, config: PreTrainedConfig) -> tuple[int, ...]:
        return (config.image_token_id,)

    def processor_settings(self, config: PreTrainedConfig) -> dict[str, Any]:
        return {"image_seq_length": config.image_seq_length}

    def typical_visual(self, config: PreTrainedConfig) -> int:
        """Of a picture of 4 by 3: twelve tiles and the thumbnail."""
        return 13 * (self.view_patches(config) or 0)

    def view_patches(self, config: PreTrainedConfig) -> int | None:
        side = config.vision_config.image_size[0] // config.vision_config.patch_size[0]
        return round(side * config.downsample_ratio) ** 2

    def config(
        self, shape: ModelShape, layers: int | None = None, vision_layers: int = 1
    ) -> PreTrainedConfig:
        return InternVLConfig(
            text_config=Qwen2Config(**text_sizes(shape, layers, 32768)),
            vision_config=InternVLVisionConfig(num_hidden_layers=vision_layers),
            image_token_id=min(151667, shape.vocab - 1),
            tie_word_embeddings=False,
        )

    def model_class(self) -> type[nn.Module]:
        return InternVLForConditionalGeneration

    def fingerprint(self, config: PreTrainedConfig) -> dict[str, Any]:
        found, vision = super().fingerprint(config), config.vision_config
        found["vision"] |= {key: list(getattr(vision, key)) for key in ("image_size", "patch_size")}
        return found

    def picture(self, model: nn.Module, inputs: Mapping[str, Any]) -> Picture | None:
        """Every view is an image here; ``grouped`` puts them together."""
        config: Any = unwrap(model).config
        made, pixels = made_lengths(inputs), inputs.get("pixel_values")
        if made is not None:
            sides = {square(length) for length in made}
            side = sides.pop() if len(sides) == 1 else None
            if side is None:
                return Picture.unmapped(made)
            views = len(made)
        elif pixels is None:
            return None
        else:
            side = round(pixels.shape[-2] // config.vision_config.patch_size[0] * config.downsample_ratio)
            views = len(pixels)
        rows = side * side
        return of_patches(torch.arange(views * rows), (rows,) * views, (1,) * views, side, side)

    def grouped(self, model: nn.Module, picture: Picture, inputs: Mapping[str, Any]) -> Picture:
        ids, embeds = inputs.get("input_ids"), inputs.get("inputs_embeds")
        if ids is None and embeds is None:
            return picture
        runs = _runs(self.visual_mask(model, ids, embeds))
        views = filled(runs, picture.lengths)
        if views is None:
            return picture
        if not picture.mapped:
            return Picture.unmapped(runs)
        return put_together(picture, runs, views)  # the thumbnail is the last view

    def crops(self, processor: Any, image: Image) -> list[Box]:
        columns, lines = _canvas(processor, image)
        return [] if columns * lines == 1 else whole_and_tiles(lines, columns)

    def tower_shape(self, config: PreTrainedConfig) -> TowerShape | None:
        settings: Any = config
        vision, width = settings.vision_config, config.get_text_config().hidden_size
        if vision.model_type != "internvl_vision":
            return None
        merge, depth = round(1 / settings.downsample_ratio) ** 2, vision.num_hidden_layers
        patch, image = vision.patch_size, vision.image_size
        made = settings.vision_feature_layer % (depth + 1)
        return TowerShape(
            layers=depth,
            width=vision.hidden_size,
            ffn=vision.intermediate_size,
            heads=vision.num_attention_heads,
            inputs=vision.num_channels * math.prod(patch),
            projector=((vision.hidden_size * merge, width), (width, width)),
            side=round(image[0] // patch[0] * settings.downsample_ratio),
            cls=1,
            merge=merge,
            made=made,
            reads=0 < made < depth,
        )

    def tower(self, model: nn.Module) -> Tower | None:
        core: Any = core_of(model)
        config: Any = core.config
        if config.vision_config.model_type != "internvl_vision" or config.downsample_ratio * JOINED != 1:
            return None
        layers = core.vision_tower.encoder.layer
        state = config.vision_feature_layer % (len(layers) + 1)
        return Tower(
            core.vision_tower,
            layers,
            states=(),
            made=layers[state - 1].attention if state else None,
            reads=layers[state].attention if state < len(layers) else None,
            heads=config.vision_config.num_attention_heads,
            has_cls=True,
            merge=JOINED**2,
            projector=None,
            strips=True,
            attention="attention",
            carries=False,
        )

    def tower_heads(
        self, attn: nn.Module, x: torch.Tensor, kwargs: Mapping[str, Any], cls_only: bool
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        asking = x[:, :1] if cls_only else x
        q, k = attn.q_norm(attn.q_proj(asking)), attn.k_norm(attn.k_proj(x))
        return [(heads_of(q, attn.head_dim), heads_of(k, attn.head_dim))]

    def tower_layer(
        self,
        layer: nn.Module,
        hidden_TPV: torch.Tensor,
        bias_T11P: torch.Tensor | None,
        after_attention: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
    ) -> torch.Tensor:
        attn, x = layer.attention, layer.layernorm_before(hidden_TPV)
        rows = attn.q_norm(attn.q_proj(x)), attn.k_norm(attn.k_proj(x)), attn.v_proj(x)
        q, k, v = (heads_of(part, attn.head_dim) for part in rows)
        bias = None if bias_T11P is None else bias_T11P.to(q.dtype)
        dropout = attn.attention_dropout if attn.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, bias, dropout, scale=attn.scale)
        out = attn.projection_dropout(attn.projection_layer(mixed.transpose(1, 2).flatten(2)))
        hidden = after_attention(hidden_TPV + layer.lambda_1 * out, q, k)
        more = layer.dropout(layer.mlp(layer.layernorm_after(hidden)))
        return hidden + (more if layer.lambda_2 is None else layer.lambda_2 * more)

    def tower_order(self, tower: Tower, kwargs: Mapping[str, Any]) -> torch.Tensor | None:
        pixels, vision = kwargs["pixel_values"], tower.module.config
        sides = [n // patch for n, patch in zip(pixels.shape[-2:], vision.patch_size, strict=True)]
        if sides[0] != sides[1]:
            raise ValueError(f"{self.name}: its tower is looked into where views are square, these are not")
        return joined([(sides[0], sides[1])] * len(pixels), JOINED)

    def smaller(
        self, processor: Any, images: list[Image], scale: float
    ) -> tuple[list[Image], dict[str, Any]]:
        """Fewer tiles, of the shape nearest the picture's; one view is the least."""
        given, small = processor.image_processor, []
        for image in images:
            now = _canvas(processor, image)
            most = max(int(math.prod(now) * scale * scale), given.min_patches, 1)
            canvas = _canvas(processor, image, most)
            if canvas != now:
                # In the shape of the canvas, so that it is chosen again; among canvases of one shape the
                # processor takes a larger one for a picture that fills more than half of it.
                times = math.gcd(*canvas)
                larger = math.prod(canvas) * ((times + 1) / times) ** 2
                held = larger > given.max_patches
                fit = 1.0 if held else min(math.sqrt(larger / math.prod(canvas) / 2), 1.0)
                unit = int(given.size["height"] * fit)
                image = image.resize((canvas[0] * unit, canvas[1] * unit))
            small.append(image)
        return small, {}


def _canvas(processor: Any, image: Image, most: int | None = None) -> tuple[int, int]:
    """Columns and lines of tiles that the processor cuts an image into, at most so many tiles."""
    given = processor.image_processor
    tile = (given.size["height"], given.size["width"])
    return get_optimal_tiled_canvas(image.size[::-1], tile, given.min_patches, most or given.max_patches)


def _runs(visual_BN: torch.Tensor) -> tuple[int, ...]:
    """Lengths of the unbroken runs of placeholders, sample by sample."""
    held, counts = pad(visual_BN, (0, 1)).flatten().unique_consecutive(return_counts=True)
    return tuple(counts[held].tolist())
