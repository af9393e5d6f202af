"""Molmo 2: the whole picture, then crops of it that overlap; all visual rows of a prompt see each other.

Shape letters: B batch, N rows, R visual rows in placeholder order, M patches of a row, D hidden.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import ceil, isqrt
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import Molmo2Config, Molmo2ForConditionalGeneration, PreTrainedConfig
from transformers.models.molmo2.image_processing_molmo2 import compute_crop_geometry

from saccade.core.shapes import ModelShape
from saccade.core.sight_rule import SightRule
from saccade.core.tower import TowerShape
from saccade.families.base import core_of, text_sizes, unwrap
from saccade.families.head_norms import HeadNorms
from saccade.families.patch_tower import PatchTower, joined_tower
from saccade.families.pools import of_pools
from saccade.families.registry import register
from saccade.families.turning import Rotary
from saccade.families.vision import Picture, Tower, made_lengths

if TYPE_CHECKING:
    from PIL.Image import Image

POOLED = 2
"""Patches along each side of the square that a row of a picture is pooled of, of every published model."""
MARGIN = 4
"""Patches of a crop on each side that its neighbour shows too, likewise."""
PIXELS = {"image": "pixel_values", "video": "pixel_values_videos"}


@register
class Molmo2(HeadNorms, PatchTower):
    """Molmo 2: rows of all pictures of a prompt, and the marks between them, see each other both ways.

    That holds where the model is given ``mm_token_type_ids``, as its processor makes them; without them it is
    causal. The whole picture is plane 0, its crops together plane 1, and a row is of the crop that its first
    patch is of. The tower's features are of two layers; what it tells is of the later one, and of a row the
    mean of its patches. A film is seen frame by frame, each a plane.
    """

    name = "Molmo 2"
    model_types = ("molmo2",)
    since = "5.20"
    text_types = ("molmo2_text",)
    norms_outputs = True  # of some checkpoints (norm_after)
    films, frames_alike = True, False
    beside_images = False  # the stock model takes one or the other
    begins = True
    tells_blocks = True  # the marks around rows and behind lines of them

    def written_ids(self, config: PreTrainedConfig) -> tuple[int, ...]:
        return ()

    def spelled(self, processor: Any, text: str) -> str:
        first = processor.tokenizer.bos_token or processor.tokenizer.eos_token
        return text if text.startswith(first) else first + text

    def typical_visual(self, config: PreTrainedConfig) -> int:
        """Of a picture of 4 by 3 pixels: two by three crops, and the whole."""
        side = _side(config)
        lines, columns = (ceil((n * (side - 2 * MARGIN) + 2 * MARGIN) / POOLED) for n in (2, 3))
        return lines * columns + ceil(side / POOLED) ** 2

    def view_patches(self, config: PreTrainedConfig) -> int:
        """Of a crop whose neighbours show one margin along each of its sides."""
        return max((_side(config) - MARGIN) ** 2 // POOLED**2, 1)

    def config(
        self, shape: ModelShape, layers: int | None = None, vision_layers: int = 1
    ) -> PreTrainedConfig:
        return Molmo2Config(
            text_config=text_sizes(shape, layers, 36864),
            vision_config={"num_hidden_layers": vision_layers},
            adapter_config={
                "vision_feature_layer": [vision_layers - 1, max(vision_layers - 7, 0)],
                "text_hidden_size": shape.hidden,
                "intermediate_size": shape.ffn,
            },
            image_patch_id=shape.vocab + 2,
        )

    def model_class(self) -> type[nn.Module]:
        return Molmo2ForConditionalGeneration

    def fingerprint(self, config: PreTrainedConfig) -> dict[str, Any]:
        text = config.get_text_config()
        kinds = {"qk_norm_type": text.qk_norm_type, "norm_after": text.norm_after}
        return super().fingerprint(config) | kinds

    def rule(self, window: int | None) -> SightRule:
        return SightRule(window, "visual")

    def blocks(self, given: Mapping[str, Any], past: int) -> torch.Tensor | None:
        kinds = given.get("mm_token_type_ids")
        pictures = any(given.get(name) is not None for name in self.image_inputs)
        # As the stock core: what comes on a cache without a picture is causal.
        return None if kinds is None or (past and not pictures) else (kinds == 1).long() - 1

    def rotary_kind(self, attn: Any) -> str | None:
        return "scaled" if attn.layer_idx in attn.config.rope_scaling_layers else "unscaled"

    def rotary(
        self,
        decoder: nn.Module,
        hidden_BND: torch.Tensor,
        position_ids: torch.Tensor,
        kind: str | None = None,
    ) -> Rotary:
        table: Any = decoder.rotary_emb_unscaled if kind == "unscaled" else decoder.rotary_emb
        return table(hidden_BND, position_ids)

    def norms(self, layer: Any) -> tuple[nn.Module, nn.Module]:
        if layer.norm_after:
            return nn.Identity(), nn.Identity()
        return layer.input_layernorm, layer.post_attention_layernorm

    def picture(self, model: nn.Module, inputs: Mapping[str, Any]) -> Picture | None:
        kind = "image" if inputs.get("video_grids") is None else "video"
        made, pixels = made_lengths(inputs, kind), inputs.get(PIXELS[kind])
        pools, grids = inputs.get(f"{kind}_token_pooling"), inputs.get(f"{kind}_grids")
        if made is None and pixels is None:
            return None
        planes = [] if grids is None else [_planes(grid) for grid in grids.tolist()]
        told = tuple(sum(h * w for h, w in image) for image in planes)
        if pools is None or (made is not None and told != made):
            return Picture.unmapped(told if made is None else made)
        return of_pools(pools[(pools >= 0).any(1)].cpu(), planes, _side(unwrap(model).config) ** 2)

    def tower_shape(self, config: Any) -> TowerShape | None:
        """Of pictures: a film is pooled in larger squares, which its projector's price does not know."""
        vision, joins = config.vision_config, config.adapter_config
        width, heads = (
            vision.hidden_size * len(joins.vision_feature_layer),
            joins.num_attention_heads * joins.head_dim,
        )
        inner, merge = joins.intermediate_size, POOLED**2
        gated = ((joins.hidden_size, inner),) * 2 + ((inner, config.get_text_config().hidden_size),)
        return TowerShape(
            vision.num_hidden_layers,
            vision.hidden_size,
            vision.intermediate_size,
            vision.num_attention_heads,
            vision.num_channels * vision.patch_size**2,
            # The query and its scores, what they weigh and the output.
            ((width, heads), (heads, merge), (merge, heads), (heads, joins.hidden_size), *gated),
            merge=merge,
            crop=_side(config) ** 2,
            patchwise=((width, heads),) * 2,
            made=_last(config) + 1,
        )

    def tower(self, model: nn.Module) -> Tower | None:
        core: Any = core_of(model)
        vision = core.config.vision_config
        if vision.num_key_value_heads != vision.num_attention_heads:
            return None
        found = joined_tower(core.vision_tower, vision.num_attention_heads, POOLED**2)
        return replace(found, made=found.layers[_last(core.config)].self_attn)

    def tower_order(self, tower: Tower, kwargs: Mapping[str, Any]) -> torch.Tensor | None:
        pools = next(kwargs[key] for key in ("image_token_pooling", "video_token_pooling") if key in kwargs)
        return pools[(pools >= 0).any(1)]

    def smaller(
        self, processor: Any, images: list[Image], scale: float
    ) -> tuple[list[Image], dict[str, Any]]:
        given, small = processor.image_processor, []
        for image in images:
            tiles = _canvas(given, image, given.max_crops)[:2]
            most = max(int(tiles[0] * tiles[1] * scale * scale), 1)
            height, width = _canvas(given, image, most)[2:]
            small.append(image if most == tiles[0] * tiles[1] else image.resize((width, height)))
        return small, {}


def _side(config: Any) -> int:
    return isqrt(config.vision_config.num_position_embeddings)


def _last(config: Any) -> int:
    depth = config.vision_config.num_hidden_layers
    return max(layer % depth for layer in config.adapter_config.vision_feature_layer)


def _planes(grid: list[int]) -> list[tuple[int, int]]:
    """Lines and columns of the planes of an image, or of a film, whose frames are counted first."""
    return [(grid[1], grid[2])] * grid[0] if len(grid) == 3 else [(grid[0], grid[1]), (grid[2], grid[3])]


def _canvas(given: Any, image: Image, most: int) -> tuple[int, int, int, int]:
    """Lines and columns of crops, and the pixels that they cover, of at most so many crops."""
    size = (image.height, image.width)
    return compute_crop_geometry(*size, most, given.overlap_margins, given.size["height"], given.patch_size)
