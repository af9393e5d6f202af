"""LFM2-VL: short convolutions between attention layers; pictures as views of any size, tiles and the whole.

Shape letters: B batch, N rows, T views, H heads, P patches (views are padded to the largest), K head width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn
from transformers import Lfm2VlConfig, Lfm2VlForConditionalGeneration, PreTrainedConfig

from saccade.core.shapes import SHAPES, ModelShape, ShortConv
from saccade.core.tower import TowerShape
from saccade.families.base import Family, Parts, core_of, heads_of, text_sizes
from saccade.families.patch_tower import joined_tower
from saccade.families.registry import register
from saccade.families.tiles import by_marks, whole_and_tiles
from saccade.families.turning import Rotary
from saccade.families.vision import Box, Picture, Tower, each_prompts, joined, made_lengths, of_grids

if TYPE_CHECKING:
    from PIL.Image import Image

CONVOLUTION = "conv"


@register
class Lfm2Vl(Family):
    """LFM2-VL and LFM2.5-VL: most layers mix a row with the two before it by a convolution (``recurs``).

    The state of such a layer is the rows that its convolution still sees. A dropped row is not among them, so
    that those which stay see each other over it, as in a prompt that is shorter. A row that skips attention
    in such a layer has passed the convolution for the rows after it, and gets 0; that spares nothing there.

    The processor writes the tiles of a picture and then the whole, each with a mark before it, and another
    after the last. So an image ends with a view after which the same stands as after the last of its sample.
    """

    name = "LFM2-VL"
    model_types = ("lfm2_vl",)
    text_types = ("lfm2",)
    norm_name: ClassVar[str] = "embedding_norm"

    def config(
        self, shape: ModelShape, layers: int | None = None, vision_layers: int = 1
    ) -> PreTrainedConfig:
        tower = shape.tower or SHAPES["lfm2.5-vl-1.6b"].tower
        assert tower is not None
        sizes, held = text_sizes(shape, layers, 128000), shape.recurrent
        convolves = frozenset(() if held is None else held.layers)
        kinds = [
            CONVOLUTION if n in convolves else "full_attention" for n in range(sizes["num_hidden_layers"])
        ]
        text = sizes | {"layer_types": kinds, "block_auto_adjust_ff_dim": False}
        text |= {} if held is None else {"conv_L_cache": held.kernel}
        vision = {
            "model_type": "siglip2_vision_model",
            "hidden_size": tower.width,
            "intermediate_size": tower.ffn,
            "num_hidden_layers": vision_layers,
            "num_attention_heads": tower.heads,
            "vision_use_head": False,
        }
        return Lfm2VlConfig(
            text_config=text,
            vision_config=vision,
            image_token_id=min(396, shape.vocab - 1),
            projector_hidden_size=tower.projector[0][1],
        )

    def model_class(self) -> type[nn.Module]:
        return Lfm2VlForConditionalGeneration

    def parts(self, model: nn.Module) -> Parts:
        found = super().parts(model)
        config: Any = found.decoder.config
        if config.conv_bias:
            raise ValueError(
                f"{self.name} with conv_bias: padding would write its biases into the state of every layer "
                "that convolves; checkpoints without such biases are supported"
            )
        return found

    def mixer(self, layer: Any) -> nn.Module:
        return layer.conv if self.recurs(layer) else layer.self_attn

    def recurs(self, layer: Any) -> bool:
        return not layer.is_attention_layer

    def recurrent(self, config: PreTrainedConfig) -> ShortConv | None:
        text: Any = config.get_text_config()
        layers = tuple(n for n, kind in enumerate(text.layer_types) if kind == CONVOLUTION)
        return ShortConv(layers, text.hidden_size, text.conv_L_cache) if layers else None

    def ffn_of(self, layer: Any) -> nn.Module:
        return layer.feed_forward

    def ffn(self, text: Any) -> int:
        wide = int(text.intermediate_size)
        if not text.block_auto_adjust_ff_dim:
            return wide
        wide = 2 * wide // 3
        if text.block_ffn_dim_multiplier is not None:
            step = text.block_multiple_of
            wide = -(-int(text.block_ffn_dim_multiplier * wide) // step) * step
        return wide

    def norms(self, layer: Any) -> tuple[nn.Module, nn.Module]:
        return layer.operator_norm, layer.ffn_norm

    def queries(self, attn: Any, x_BND: torch.Tensor, rotary: Rotary) -> torch.Tensor:
        return self.turn(attn.q_layernorm(heads_of(attn.q_proj(x_BND), attn.head_dim)), rotary)

    def keys(self, attn: Any, x_BND: torch.Tensor, rotary: Rotary) -> torch.Tensor:
        return self.turn(attn.k_layernorm(heads_of(attn.k_proj(x_BND), attn.head_dim)), rotary)

    def output(
        self, attn: Any, context_BHNK: torch.Tensor, gate_BND: torch.Tensor | None = None
    ) -> torch.Tensor:
        return attn.out_proj(context_BHNK.transpose(1, 2).flatten(2))

    def activation(self, config: PreTrainedConfig) -> str:
        return "silu"

    def linears(self, layer: Any) -> dict[str, tuple[torch.Tensor, torch.Tensor | None]]:
        raise ValueError(
            f"{self.name} norms queries and keys head by head, and most of its layers have no attention, so "
            "the bounds, which go by the weights of attention, are not of it: leave bounds out of --what"
        )

    def typical_visual(self, config: PreTrainedConfig) -> int:
        """Of a picture of the most rows that is not cut into tiles; its limit is the processor's."""
        return 256

    def tower_shape(self, config: PreTrainedConfig) -> TowerShape | None:
        """Of a picture's own patches; the padding of every view up to the largest is not in it."""
        settings: Any = config
        vision, inner, width = (
            settings.vision_config,
            settings.projector_hidden_size,
            config.get_text_config().hidden_size,
        )
        merge = settings.downsample_factor**2
        return TowerShape(
            vision.num_hidden_layers,
            vision.hidden_size,
            vision.intermediate_size,
            vision.num_attention_heads,
            vision.num_channels * vision.patch_size**2,
            ((merge * vision.hidden_size, inner), (inner, width)),
            merge=merge,
        )

    def picture(self, model: nn.Module, inputs: Mapping[str, Any]) -> Picture | None:
        """Every view by itself; ``grouped`` tells which are one image."""
        made, shapes = made_lengths(inputs), inputs.get("spatial_shapes")
        if shapes is None or (made is None and inputs.get("pixel_values") is None):
            return None if made is None else Picture.unmapped(made)
        core: Any = core_of(model)
        side = core.config.downsample_factor
        grids = [(1, int(high) // side, int(wide) // side) for high, wide in shapes]
        if made is not None:
            # The sizes are those of the whole conversation, the features those of its last turn.
            grids = grids[max(len(grids) - len(made), 0) :]
            if tuple(map(prod, grids)) != made:
                return Picture.unmapped(made)
        return of_grids(grids)

    def grouped(self, model: nn.Module, picture: Picture, inputs: Mapping[str, Any]) -> Picture:
        return by_marks(self, model, picture, inputs, "after")

    def by_prompt(self, processor: Any, texts: Sequence[str], images: Sequence[Image]) -> list[Any]:
        return each_prompts(processor.image_token, texts, images)

    def crops(self, processor: Any, image: Image) -> list[Box]:
        given = processor.image_processor
        if not (given.do_image_splitting and _is_large(given, image)):
            return []
        if not given.use_thumbnail:
            raise ValueError(
                f"{self.name} without use_thumbnail: its tiles are not told from a whole picture"
            )
        columns, lines = given._get_grid_layout(
            image.height, image.width, given.min_tiles, given.max_tiles, given.tile_size
        )[:2]
        return whole_and_tiles(lines, columns)

    def tower(self, model: nn.Module) -> Tower | None:
        core: Any = core_of(model)
        heads = core.config.vision_config.num_attention_heads
        return joined_tower(core.vision_tower, heads, core.config.downsample_factor**2)

    def tower_heads(
        self, attn: nn.Module, x: torch.Tensor, kwargs: Mapping[str, Any], cls_only: bool
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        q_THPK, k_THPK = (heads_of(project(x), attn.head_dim) for project in (attn.q_proj, attn.k_proj))
        mask = kwargs.get("attention_mask")
        if mask is None:
            counts = [x.shape[1]] * len(x)
        else:
            # Padding of a view is hidden from all of its patches.
            seen_TP = mask[:, 0, 0] if mask.dtype == torch.bool else mask[:, 0, 0] == 0
            counts = seen_TP.sum(-1).tolist()
        return [(q_THPK[t : t + 1, :, :n], k_THPK[t : t + 1, :, :n]) for t, n in enumerate(counts)]

    def tower_order(self, tower: Tower, kwargs: Mapping[str, Any]) -> torch.Tensor | None:
        grids = [(int(high), int(wide)) for high, wide in kwargs["spatial_shapes"]]
        return joined(grids, round(tower.merge**0.5))

    def smaller(
        self, processor: Any, images: list[Image], scale: float
    ) -> tuple[list[Image], dict[str, Any]]:
        """What the model sees of a large picture is that within its processor's limit, which gets smaller."""
        given, small = processor.image_processor, []
        cell = given.encoder_patch_size * given.downsample_factor
        for image in images:
            tiled = given.do_image_splitting and _is_large(given, image)
            most = given.max_tiles * given.tile_size**2 if tiled else given.max_image_tokens * cell**2
            fit = min((most / (image.width * image.height)) ** 0.5, 1.0) * scale
            small.append(image.resize((max(round(image.width * fit), 1), max(round(image.height * fit), 1))))
        return small, {"min_image_tokens": 1}


def _is_large(given: Any, image: Image) -> bool:
    """Whether a picture is cut into tiles, as its processor asks itself."""
    return bool(
        given._is_image_too_large(
            image.height,
            image.width,
            given.max_image_tokens,
            given.encoder_patch_size,
            given.downsample_factor,
            given.max_pixels_tolerance,
        )
    )
