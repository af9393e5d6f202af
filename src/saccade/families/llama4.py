"""Llama 4: parts of rows that see each other between layers without positions, experts, tiles and the whole.

Shape letters: B batch, N rows, D hidden, H heads, K head width, T views, P rows of a view, V tower width.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn
from transformers import Llama4Config, Llama4ForConditionalGeneration, PreTrainedConfig

from saccade.core.shapes import Experts, ModelShape
from saccade.core.tower import TowerShape
from saccade.families.base import Parts, heads_of, text_sizes, unwrap
from saccade.families.experts import SparseFFN
from saccade.families.registry import register
from saccade.families.tempered import Tempered, doubled
from saccade.families.tiles import by_marks, whole_and_tiles
from saccade.families.tower_shape import encoder
from saccade.families.vision import Box, Picture, Tower, joined, of_patches, square

if TYPE_CHECKING:
    from PIL.Image import Image

VISION: dict[str, Any] = {"hidden_size": 1408, "intermediate_size": 5632, "image_size": 336} | dict.fromkeys(
    ("projector_input_dim", "projector_output_dim", "vision_output_dim"), 4096
)
"""The tower of the published models."""


@register
class Llama4(Tempered, SparseFFN):
    """Llama 4: three layers of four see a part of the prompt (8192 rows), the others all, without positions.

    A part is counted from where a sample begins, and by positions where these close up; so is what makes
    queries grow, but by row numbers, padding among them, as in the stock model. The stock model runs every
    expert on every row: ``executed`` FLOPs say so, ``paper`` counts those that a row is sent to.

    The processor writes the tiles of a picture and then the whole, with the same mark behind the whole of
    every picture. A row joins four patches: what the tower says of it is their mean. CLS stands last in it.
    """

    name = "Llama 4"
    model_types = ("llama4",)
    text_types = ("llama4_text",)
    tower_modules: ClassVar[tuple[str, ...]] = ("vision_model", "multi_modal_projector")
    image_inputs = ("pixel_values", "mm_encoder_outputs")

    def written_ids(self, config: PreTrainedConfig) -> tuple[int, ...]:
        return ()

    def view_patches(self, config: Any) -> int:
        vision = config.vision_config
        return round(vision.image_size // vision.patch_size * vision.pixel_shuffle_ratio) ** 2

    def typical_visual(self, config: PreTrainedConfig) -> int:
        """Of a picture of 4 by 3: twelve tiles and the whole."""
        return 13 * self.view_patches(config)

    def config(
        self, shape: ModelShape, layers: int | None = None, vision_layers: int = 1
    ) -> PreTrainedConfig:
        held = shape.experts or Experts(1, 1, shape.ffn)
        text: dict[str, Any] = dict(text_sizes(shape, layers, 131072))
        sparse = [n for n in range(text["num_hidden_layers"]) if shape.experts and n not in shape.plain]
        text |= {"intermediate_size": held.width, "intermediate_size_mlp": shape.plain_ffn or shape.ffn}
        text |= {"num_local_experts": held.count, "num_experts_per_tok": held.chosen, "moe_layers": sparse}
        return Llama4Config(
            text_config=text,
            vision_config=VISION | {"num_hidden_layers": vision_layers},
            image_token_index=min(200092, shape.vocab - 1),
        )

    def model_class(self) -> type[nn.Module]:
        return Llama4ForConditionalGeneration

    def parts(self, model: nn.Module) -> Parts:
        stock: Any = unwrap(model)
        decoder, head = stock.language_model.model, stock.language_model.lm_head
        return Parts(stock, decoder, decoder.layers, decoder.norm, head)

    def features(self, output: Any) -> Any:
        return output.last_hidden_state

    def experts(self, text: Any) -> Experts:
        width = text.intermediate_size
        return Experts(text.num_local_experts, text.num_experts_per_tok, width, width, all_run=True)

    def plain(self, text: Any) -> tuple[int, ...]:
        return tuple(n for n in range(text.num_hidden_layers) if n not in text.moe_layers)

    def plain_width(self, text: Any) -> int:
        return text.intermediate_size_mlp

    def fingerprint(self, config: PreTrainedConfig) -> dict[str, Any]:
        text: Any = config.get_text_config()
        kinds = {"layer_types": list(text.layer_types), "attention_chunk_size": text.attention_chunk_size}
        return super().fingerprint(config) | kinds

    def ffn_of(self, layer: Any) -> nn.Module:
        return layer.feed_forward

    def linears(self, layer: Any) -> dict[str, tuple[torch.Tensor, torch.Tensor | None]]:
        raise ValueError(
            f"{self.name} norms queries and keys after they turn and has experts, so the bounds, which go by "
            "the weights of attention and one FFN, are not of it: leave bounds out of --what"
        )

    def picture(self, model: nn.Module, inputs: Mapping[str, Any]) -> Picture | None:
        """Every view is an image here; ``grouped`` puts them together."""
        made, pixels = (inputs.get("mm_encoder_outputs") or {}).get("image"), inputs.get("pixel_values")
        if made is None and pixels is None:
            return None
        rows = self.view_patches(unwrap(model).config) if made is None else made.last_hidden_state.shape[1]
        views = len(pixels if made is None else made.last_hidden_state)
        side = square(rows)
        if side is None:
            return Picture.unmapped((rows,) * views)
        return of_patches(torch.arange(views * rows), (rows,) * views, (1,) * views, side, side)

    def grouped(self, model: nn.Module, picture: Picture, inputs: Mapping[str, Any]) -> Picture:
        return by_marks(self, model, picture, inputs, "after")

    def seen(self, processor: Any, image: Image) -> Image:
        """With the padding that fills its tiles."""
        lines, columns, scale = _canvas(processor, image)
        tile = processor.image_processor.size["height"] / scale
        wide, high = max(round(columns * tile), image.width), max(round(lines * tile), image.height)
        return image.crop((0, 0, wide, high))

    def crops(self, processor: Any, image: Image) -> list[Box]:
        lines, columns, scale = _canvas(processor, image)
        tile = processor.image_processor.size["height"] / scale
        whole = (0.0, 0.0, min(image.width / (columns * tile), 1.0), min(image.height / (lines * tile), 1.0))
        return [] if lines * columns == 1 else [whole, *whole_and_tiles(lines, columns)[1:]]

    def smaller(
        self, processor: Any, images: list[Image], scale: float
    ) -> tuple[list[Image], dict[str, Any]]:
        small = []
        for image in images:
            fit = min(_canvas(processor, image)[2], 1.0) * scale
            small.append(image.resize((max(round(image.width * fit), 1), max(round(image.height * fit), 1))))
        return small, {}

    def tower_shape(self, config: Any) -> TowerShape | None:
        vision, width = config.vision_config, config.get_text_config().hidden_size
        into, out = vision.projector_input_dim, vision.projector_output_dim
        return encoder(
            vision,
            width,
            projector=((vision.intermediate_size, into), (out, out), (vision.vision_output_dim, width)),
            side=square(self.view_patches(config)),
            merge=round(vision.pixel_shuffle_ratio**-2),
            cls=1,
        )

    def tower(self, model: nn.Module) -> Tower | None:
        stock: Any = unwrap(model)
        vision, layers = stock.vision_model, stock.vision_model.model.layers
        heads, merge = vision.config.num_attention_heads, round(vision.config.pixel_shuffle_ratio**-2)
        return Tower(vision, layers, (), layers[-1].self_attn, None, heads, True, merge, None, False)

    def tower_heads(
        self, attn: nn.Module, x: torch.Tensor, kwargs: Mapping[str, Any], cls_only: bool
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        # CLS first, as elsewhere.
        x, turns_1NK = x.roll(1, 1), kwargs["freqs_ci"].roll(1, 0)[None, :, 0]

        def heads(project: nn.Module, rows: int | None) -> torch.Tensor:
            return self.turn(heads_of(project(x[:, :rows]), attn.head_dim), doubled(turns_1NK[:, :rows]))

        return [(heads(attn.q_proj, 1 if cls_only else None), heads(attn.k_proj, None))]

    def tower_order(self, tower: Tower, kwargs: Mapping[str, Any]) -> torch.Tensor | None:
        pixels, config = kwargs["pixel_values"], tower.module.config
        grid = (pixels.shape[-2] // config.patch_size, pixels.shape[-1] // config.patch_size)
        return joined([grid] * len(pixels), round(1 / config.pixel_shuffle_ratio))


def _canvas(processor: Any, image: Image) -> tuple[int, int, float]:
    """Lines and columns of tiles that the processor cuts an image into, and how large it is on them."""
    given = processor.image_processor
    tile, most = given.size["height"], given.max_patches
    fits = {
        (high, wide): min(high * tile / image.height, wide * tile / image.width)
        for high in range(1, most + 1)
        for wide in range(1, most // high + 1)
    }
    above = [fit for fit in fits.values() if fit >= 1]
    fit = max(above or fits.values()) if given.resize_to_max_canvas or not above else min(above)
    lines, columns = min((canvas for canvas, one in fits.items() if one == fit), key=prod)
    # A picture is not enlarged past one tile.
    limit = fit if given.resize_to_max_canvas else max(tile / max(image.size), 1.0)
    return lines, columns, min(fit, limit)
