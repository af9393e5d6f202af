"""Sizes of vision towers read off configurations, and of pictures off what a family says of them."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

from saccade.core.tower import Cells, Tiling, TowerShape
from saccade.families.vision import Picture

CHANNELS = 3


def encoder(vision: Any, decoder: int, **more: Any) -> TowerShape:
    """A CLIP or SigLIP tower of square views, with LLaVA's projector of two layers.

    Args:
        vision: The tower's configuration.
        decoder: Width of the decoder.
        more: Fields that are otherwise.
    """
    kind = vision.model_type
    found = TowerShape(
        layers=vision.num_hidden_layers,
        width=vision.hidden_size,
        ffn=vision.intermediate_size,
        heads=vision.num_attention_heads,
        inputs=CHANNELS * vision.patch_size**2,
        projector=((vision.hidden_size, decoder), (decoder, decoder)),
        side=vision.image_size // vision.patch_size,
        cls=int(kind == "clip_vision_model"),
        pooled=kind == "siglip_vision_model" and bool(getattr(vision, "vision_use_head", True)),
    )
    return replace(found, **more)


def cells_of(picture: Picture, tower: TowerShape) -> list[Tiling]:
    """Lines and columns of every view of every image, in rows that patches are joined to."""
    total, sizes = sum(picture.views), picture.view_sizes
    if sizes is None or not total:
        return [tower.views(length) for length in picture.lengths]
    if tower.side is not None:
        # Views of one size, whatever became of their patches afterwards (newlines, pooling, padding).
        return [tower.views(picture.patches / total) * views for views in picture.views]
    found, first = [], 0
    for image in sizes:
        found.append(tuple(_grid(picture, first + n, size) for n, size in enumerate(image)))
        first += len(image)
    return found


def _grid(picture: Picture, view: int, size: int) -> Cells:
    own_R = picture.view_R == view
    sides = tuple(
        float(part[own_R].max() - part[own_R].min() + 1) if bool(own_R.any()) else 0.0
        for part in (picture.line_R, picture.column_R)
    )
    return (sides[0], sides[1]) if prod(sides) == size else (size**0.5, size**0.5)
