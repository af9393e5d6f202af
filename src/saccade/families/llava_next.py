"""LLaVA-NeXT: LLaVA with tiles of the image beside the whole of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn
from transformers import LlavaNextConfig, LlavaNextForConditionalGeneration, PreTrainedConfig
from transformers.image_processing_utils import select_best_resolution
from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

from saccade.core.shapes import ModelShape
from saccade.families.base import core_of, unwrap
from saccade.families.llava import Llava, config_parts, strips_first
from saccade.families.projector import ProjectorPlace, Undo, projector_stand_in
from saccade.families.registry import register
from saccade.families.vision import Picture, made_lengths, of_patches

if TYPE_CHECKING:
    from PIL.Image import Image


@register
class LlavaNext(Llava):
    """LLaVA-NeXT: a base view, anyres tiles and newline tokens, all of them placeholder rows of one run."""

    name = "LLaVA-NeXT"
    model_types = ("llava_next",)
    tower_can = ("merge_rows", "merge_patches")
    layouts: ClassVar[tuple[str, ...]] = ("llava-hd",)

    def typical_visual(self, config: PreTrainedConfig) -> int:
        return super().typical_visual(config) * 5

    def view_patches(self, config: PreTrainedConfig) -> int | None:
        return super().typical_visual(config)

    def config(
        self, shape: ModelShape, layers: int | None = None, vision_layers: int = 1
    ) -> PreTrainedConfig:
        return LlavaNextConfig(**config_parts(shape, layers, vision_layers))

    def model_class(self) -> type[nn.Module]:
        return LlavaNextForConditionalGeneration

    def _stock_picture(self, model: nn.Module, inputs: Mapping[str, Any]) -> Picture | None:
        sizes, made = inputs.get("image_sizes"), made_lengths(inputs)
        if sizes is None or (made is None and inputs.get("pixel_values") is None):
            return None if made is None else Picture.unmapped(made)
        shown = self._tiled(model, inputs, [(int(high), int(wide)) for high, wide in sizes])
        return shown if made is None or shown.lengths == made else Picture.unmapped(made)

    def _tiled(self, model: nn.Module, inputs: Mapping[str, Any], sizes: list[tuple[int, int]]) -> Picture:
        """The picture of images of these heights and widths."""
        config: Any = unwrap(model).config
        vision, grids = config.vision_config, config.image_grid_pinpoints
        tile, cell, side = vision.image_size, vision.patch_size, vision.image_size // vision.patch_size
        views = self._views(config, inputs, sizes)
        one = self._view(model, inputs, side * side)
        patches = torch.where(one < 0, one, one + torch.arange(sum(views))[:, None] * side * side)
        # The model's own packing, run on patch numbers in place of features, says which row is which patch.
        packed = self._packed(model, inputs, list(patches[..., None].split(views)), sizes)
        lengths = tuple(len(rows) for rows in packed)
        shown = of_patches(torch.cat(packed)[:, 0], lengths, views, side, side)
        across = [select_best_resolution(size, grids)[1] // tile for size in sizes]
        unseen = tuple(
            _unseen(rows[:, 0], whole, columns)
            for rows, whole, columns in zip(
                packed, torch.arange(shown.patches).view(-1, side, side).split(views), across, strict=True
            )
        )
        box = shown.box_R4 * (side * cell / tile)
        rows = (x.split(lengths) for x in (shown.plane_R, shown.line_R, shown.column_R, box))
        placed = [
            _on_canvas(plane, line, column, box, size, select_best_resolution(size, grids), tile, cell)
            for plane, line, column, box, size in zip(*rows, sizes, strict=True)
        ]
        plane, line, column, box = (torch.cat(x) for x in zip(*placed, strict=True))
        return replace(shown, plane_R=plane, line_R=line, column_R=column, box_R4=box, unseen=unseen)

    def _views(self, config: Any, inputs: Mapping[str, Any], sizes: list[tuple[int, int]]) -> list[int]:
        """Views of every image."""
        tile = config.vision_config.image_size
        return [image_size_to_num_patches(size, config.image_grid_pinpoints, tile) for size in sizes]

    def _packed(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        patches: list[torch.Tensor],
        sizes: list[tuple[int, int]],
    ) -> list[torch.Tensor]:
        """Patch numbers (views, patches, 1) of images as the model packs features; -1 at newline rows."""
        core, strips = core_of(model), strips_first(unwrap(model).config, inputs)
        strategy = "default" if strips else "full"
        return core.pack_image_features(patches, sizes, strategy, image_newline=torch.tensor([-1]))[0]

    def projector_place(self, model: nn.Module, image_size: int | None = None) -> ProjectorPlace:
        if image_size is not None:
            raise ValueError("LLaVA-NeXT cuts images into tiles of one size: leave image_size as it is")
        return replace(super().projector_place(model), rows=self.typical_visual(unwrap(model).config))

    def replace_projector(
        self,
        model: nn.Module,
        processor: Any,
        module: nn.Module,
        image_size: int | None = None,
        levels: Sequence[int] = (),
    ) -> Callable[[], None]:
        core: Any = core_of(model)
        undo = Undo()
        undo.append(super().replace_projector(model, None, module, image_size, levels))
        # Rows are laid out when the views of an image come together; newline rows have no place in that.
        stock = core.pack_image_features

        def pack(
            image_features: Any,
            image_sizes: Any,
            vision_feature_select_strategy: Any,
            image_newline: Any = None,
        ) -> tuple[list[torch.Tensor], torch.Tensor]:
            packed, _ = stock(image_features, image_sizes, vision_feature_select_strategy, image_newline=None)
            whole = [views.shape[1] for views in image_features]
            stand_in: Any = projector_stand_in(core)
            rows = [stand_in.pack(rows, first) for rows, first in zip(packed, whole, strict=True)]
            return rows, torch.tensor([len(each) for each in rows], device=rows[0].device)

        undo.attribute(core, "pack_image_features", pack)
        if processor is not None:
            undo.attribute(processor, "_get_number_of_features", Counted(processor, module))
        return undo.all

    def _rows_to_lay_out(self, model: nn.Module, inputs: Mapping[str, Any]) -> list[int] | None:
        sizes = inputs.get("image_sizes")
        if sizes is None or inputs.get("pixel_values") is None:
            return None
        core: Any = core_of(model)
        grids, tile = core.config.image_grid_pinpoints, core.config.vision_config.image_size
        side = tile // core.config.vision_config.patch_size
        views = [torch.zeros(image_size_to_num_patches(size, grids, tile), side * side, 1) for size in sizes]
        # The class's packing, for the instance's is ours: the whole picture, unpadded tiles, no newline rows.
        packed, _ = type(core).pack_image_features(core, views, sizes, "default", image_newline=None)
        return [len(rows) for rows in packed]

    def seen(self, processor: Any, image: Image) -> Image:
        return image

    def full_size(self, model: nn.Module, pixels: torch.Tensor) -> bool | None:
        return None  # tiles are of one size, and a smaller picture has fewer

    def smaller(
        self, processor: Any, images: list[Image], scale: float
    ) -> tuple[list[Image], dict[str, Any]]:
        small = []
        for image in images:
            # What the tiles show of a large image is the image fitted to their canvas: that is made smaller.
            fit = min(self._fit(processor, image), 1.0) * scale
            small.append(image.resize((max(round(image.width * fit), 1), max(round(image.height * fit), 1))))
        return small, {}

    def _fit(self, processor: Any, image: Image) -> float:
        """By how much each side of an image grows for its tiles."""
        canvas = select_best_resolution(image.size[::-1], processor.image_processor.image_grid_pinpoints)
        return min(canvas[1] / image.width, canvas[0] / image.height)


class Counted:
    """Stands in for a processor's count of an image's features where another module lays them out."""

    def __init__(self, processor: Any, module: Any) -> None:
        self.processor, self.module = processor, module

    def __call__(self, orig_height: int, orig_width: int, height: int, width: int) -> int:
        processor = self.processor
        canvas = select_best_resolution(
            [orig_height, orig_width], processor.image_processor.image_grid_pinpoints
        )
        high, wide = height // processor.patch_size, width // processor.patch_size
        tiles, _ = processor._get_unpadded_features(
            orig_height, orig_width, high, wide, canvas[0] // height, canvas[1] // width
        )
        # The caller takes one off where the first row of every view is stripped.
        return self.module.length(high * wide + tiles) + int(
            processor.vision_feature_select_strategy == "default"
        )


def _on_canvas(
    plane: torch.Tensor,
    line: torch.Tensor,
    column: torch.Tensor,
    box: torch.Tensor,
    size: tuple[int, int],
    canvas: tuple[int, int],
    tile: int,
    cell: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Puts the tiles of one image (planes from 1) side by side: one plane, with boxes in the unpadded image.

    Args:
        plane: View of each row in its image, 0 the whole picture.
        line: Line in its view.
        column: Column in its view.
        box: Box in its view.
        size: Height and width of the image.
        canvas: Height and width of all tiles together.
        tile: Side of a tile in pixels.
        cell: Side of a patch in pixels.
    """
    across, side, tiled = canvas[1] // tile, tile // cell, plane > 0
    down, right = (plane - 1) // across, (plane - 1) % across
    # As the image processor fits, rounds and centres the image on the canvas.
    fit = min(canvas[0] / size[0], canvas[1] / size[1])
    high, wide = (min(math.ceil(n * fit), full) for n, full in zip(size, canvas, strict=True))
    top, left = (canvas[0] - high) // 2, (canvas[1] - wide) // 2
    y, x = down * tile + line * cell - top, right * tile + column * cell - left
    on_image = torch.stack((x / wide, y / high, (x + cell) / wide, (y + cell) / high), -1).clamp(0, 1)
    line, column = (
        torch.where(tiled, at - at[tiled].min() if bool(tiled.any()) else at, old)
        for at, old in ((down * side + line, line), (right * side + column, column))
    )
    return plane.clamp(max=1), line, column, torch.where(tiled[:, None], on_image, box)


def _unseen(row_N: torch.Tensor, patch_VHW: torch.Tensor, across: int) -> torch.Tensor:
    """Patches of an image's tiles that no row holds, see ``Picture.unseen``.

    Args:
        row_N: Patch of every row of the image, -1 at newline rows.
        patch_VHW: Numbers of the patches of its views.
        across: Tiles beside each other.
    """
    side = patch_VHW.shape[-1]
    # As the tiles lie on their canvas, line by line over all of them.
    canvas = patch_VHW[1:].unflatten(0, (-1, across)) if len(patch_VHW) > 1 else patch_VHW[1:, None]
    raster = canvas.transpose(1, 2).flatten()
    first = int(patch_VHW[0, 0, 0])
    at = torch.full((patch_VHW.numel(),), -1)
    at[raster - first] = torch.arange(len(raster))
    missing = torch.ones(patch_VHW.numel(), dtype=torch.bool)
    missing[row_N[row_N >= 0] - first] = False
    missing[: side * side] = False
    patch = raster[missing[raster - first]]
    # A newline row stands behind the patch before it.
    place_N = torch.where(row_N < 0, -1, at[(row_N - first).clamp(min=0)]).cummax(0).values
    before = torch.searchsorted(place_N, at[patch - first])
    return torch.stack((patch, patch // (side * side), before), dim=1)
