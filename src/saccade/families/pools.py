"""Pictures whose rows are pooled of squares of patches, which may lie in several views (pure).

Shape letters: R visual rows, M patches that a row is pooled of, L parts of a line.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt

import torch

from saccade.families.vision import Picture


def of_pools(pools_RM: torch.Tensor, planes: Sequence[Sequence[tuple[int, int]]], patches: int) -> Picture:
    """The picture of rows that are each pooled of a square of patches, which may lie in several views.

    Args:
        pools_RM: Patches of every row line by line, counted over all views; -1 where a square is cut off.
        planes: Lines and columns of rows of every plane of every image.
        patches: Of a view. A row counts to that of its first patch.
    """
    view_R = pools_RM.gather(1, (pools_RM >= 0).int().argmax(1, keepdim=True))[:, 0] // patches
    side, at, lengths, views = isqrt(pools_RM.shape[1]), 0, [], []
    found: dict[str, list[torch.Tensor]] = {"plane": [], "line": [], "column": [], "box": []}
    for image in planes:
        first = at
        for number, (lines, columns) in enumerate(image):
            held = (pools_RM[at : at + lines * columns] >= 0).view(lines, columns, side, side)
            line, column = torch.arange(lines * columns) // columns, torch.arange(lines * columns) % columns
            top, bottom = _edges(held.any(3).any(1))
            left, right = _edges(held.any(2).any(0))
            found["plane"].append(torch.full_like(line, number))
            found["line"].append(line)
            found["column"].append(column)
            found["box"].append(torch.stack((left[column], top[line], right[column], bottom[line]), -1))
            at += lines * columns
        lengths.append(at - first)
        views.append(int(view_R[at - 1] - view_R[first]) + 1)
    made = {name: torch.cat(parts) for name, parts in found.items()}
    where = (made["plane"], made["line"], made["column"], made["box"])
    return Picture(tuple(lengths), tuple(views), at, torch.arange(at), view_R, *where)


def _edges(held_LM: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where each of some parts begins and ends in the whole, 0 to 1, by the patches that they have."""
    counts_L = held_LM.sum(1)
    ends_L = counts_L.cumsum(0)
    return (ends_L - counts_L) / ends_L[-1], ends_L / ends_L[-1]
