"""Pictures that processors cut into tiles: where tiles lie, and which views are one image (pure).

Shape letters: B batch, N rows of a sample, D hidden, or 1 for token ids, R visual rows, or runs of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from saccade.core.rows import runs
from saccade.families.vision import Box, Picture

if TYPE_CHECKING:
    from saccade.families.base import Family

WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


def whole_and_tiles(lines: int, columns: int) -> list[Box]:
    """The whole picture, and its tiles line by line."""
    places = [(x, y) for y in range(lines) for x in range(columns)]
    return [WHOLE, *((x / columns, y / lines, (x + 1) / columns, (y + 1) / lines) for x, y in places)]


def put_together(picture: Picture, images: Sequence[int], views: Sequence[int]) -> Picture:
    """A picture of views by themselves, as images of so many rows and views each.

    The last view of an image is the whole picture (plane 0), an only view too.
    """
    planes = [n + 1 if n + 1 < count else 0 for count in views for n in range(count)]
    plane_R = torch.tensor(planes, dtype=torch.long)[picture.view_R]
    return replace(picture, lengths=tuple(images), views=tuple(views), plane_R=plane_R, unseen=())


def by_marks(
    family: Family,
    model: nn.Module,
    picture: Picture,
    inputs: Mapping[str, Any],
    mark: Literal["before", "after"],
) -> Picture:
    """A picture of views by themselves, as the images that the marks beside views tell (``marked``).

    Args:
        family: The model's adapter.
        model: The model, for its placeholders.
        picture: What each view is a picture of.
        inputs: Keyword arguments of the core's forward.
        mark: On which side of a view.
    """
    ids, embeds = inputs.get("input_ids"), inputs.get("inputs_embeds")
    if ids is None and embeds is None:
        return picture
    images = marked(family.visual_mask(model, ids, embeds), ids, embeds, mark)
    views = filled(images, picture.lengths)
    if views is None:
        return picture if sum(images) != sum(picture.lengths) else Picture.unmapped(images)
    return put_together(picture, images, views) if picture.mapped else Picture.unmapped(images)


def filled(images: Sequence[int], lengths: Sequence[int]) -> tuple[int, ...] | None:
    """How many views fill each image, one after another; None if they do not.

    Args:
        images: Rows of every image.
        lengths: Rows of every view.
    """
    left, found = list(lengths), []
    for image in images:
        rows = views = 0
        while rows < image and left:
            rows, views = rows + left.pop(0), views + 1
        if rows != image:
            return None
        found.append(views)
    return None if left else tuple(found)


def marked(
    visual_BN: torch.Tensor,
    input_ids: torch.Tensor | None,
    inputs_embeds: torch.Tensor | None,
    mark: Literal["before", "after"],
) -> list[int]:
    """Rows of every image: it ends with a view beside which the same stands as beside the last of its sample.

    Args:
        visual_BN: Rows that hold a placeholder.
        input_ids: Token ids (B, N), or None.
        inputs_embeds: Embeddings (B, N, D), where there are no ids.
        mark: On which side of a view.
    """
    said = input_ids[..., None] if input_ids is not None else inputs_embeds
    assert said is not None
    each = zip(visual_BN, said, strict=True)
    return [rows for visual_N, said_ND in each for rows in _marked(visual_N, said_ND, mark)]


def _marked(visual_N: torch.Tensor, said_ND: torch.Tensor, mark: str) -> list[int]:
    found = runs(visual_N.cpu())
    if not found:
        return []
    last = len(said_ND) - 1
    beside = [max(start - 1, 0) if mark == "before" else min(stop, last) for start, stop in found]
    marks_RD = said_ND[torch.tensor(beside, device=said_ND.device)]
    images, rows = [], 0
    for (start, stop), ends in zip(found, (marks_RD == marks_RD[-1]).all(-1).tolist(), strict=True):
        rows += stop - start
        if ends:
            images.append(rows)
            rows = 0
    return images
