"""Rows that a model interpolates between patches: where they lie, and what they are mixed of.

Shape letters: N rows of an image, M rows or patches that one lies between.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isqrt

import torch
import torch.nn.functional as F

from saccade.families.vision import MIXED, Picture, joined

TOLERATED = 1.1
"""Tiles are interpolated where their sides exceed the budget by more than this factor."""


@dataclass(frozen=True, eq=False)
class ImageRows:
    """Rows of one image, told by those that nothing was interpolated between yet.

    Attributes:
        source_NM: Which of those it lies between.
        share_NM: Their shares.
        line_N: Its line.
        column_N: Its column; -1 at newline rows.
        box_N4: Its box.
    """

    source_NM: torch.Tensor
    share_NM: torch.Tensor
    line_N: torch.Tensor
    column_N: torch.Tensor
    box_N4: torch.Tensor

    @classmethod
    def of(cls, shown: Picture, start: int, rows: int) -> ImageRows:
        """The rows of an image as they are."""
        at = slice(start, start + rows)
        own_NM = torch.arange(start, start + rows)[:, None].expand(-1, MIXED)
        alone_NM = (torch.arange(MIXED) < 1).float().expand(rows, -1)
        return cls(own_NM, alone_NM, shown.line_R[at], shown.column_R[at], shown.box_R4[at])

    @staticmethod
    def put(shown: Picture, parts: Sequence[ImageRows]) -> Picture:
        """The picture with the rows of its images as they became."""
        names = ("source_NM", "share_NM", "line_N", "column_N", "box_N4")
        source, share, line, column, box = (torch.cat([getattr(p, name) for p in parts]) for name in names)
        mixes, most = bool((share[:, 1:] > 0).any()), source[:, 0]
        return replace(
            shown,
            lengths=tuple(len(part.line_N) for part in parts),
            patch_R=shown.patch_R[most],
            view_R=shown.view_R[most],
            plane_R=shown.plane_R[most],
            line_R=line,
            column_R=column,
            box_R4=box,
            mix_RM=shown.patch_R[source] if mixes else None,
            share_RM=share if mixes else None,
        )

    def padded(self, size: tuple[int, int]) -> ImageRows:
        """With boxes in an image of this height and width, of which a square was made."""
        high, wide = size
        longest = max(size)
        left, top = (longest - wide) // 2, (longest - high) // 2
        shift, scale = torch.tensor([left, top]).repeat(2), torch.tensor([wide, high]).repeat(2)
        box = ((self.box_N4 * longest - shift) / scale).clamp(0, 1)
        return replace(self, box_N4=box.masked_fill(self.line_N[:, None] < 0, 0.0))

    def within(self, budget: int, side: int) -> ImageRows:
        """As the model interpolates them where its tiles exceed a budget of so many views.

        Args:
            budget: Views.
            side: Patches along a side of a view; the first view is the whole image and stays.
        """
        base, ends = side * side, self.line_N < 0
        lines = int(ends.sum())
        columns = (len(ends) - base) // lines - 1
        over = math.sqrt(lines * columns / (budget * side**2))
        if over <= TOLERATED:
            return self
        high, wide = int(lines // over), int(columns // over)
        places_NM, shares_NM = bilinear((lines, columns), (high, wide))
        source_NM = self.source_NM[0, 0] + base + places_NM // columns * (columns + 1) + places_NM % columns
        edges = self.box_N4[base:].view(lines, columns + 1, 4)
        y = _edges(edges[:, 0, 1], edges[-1, 0, 3], high)
        x = _edges(edges[0, :-1, 0], edges[0, -2, 2], wide)
        line, column = torch.meshgrid(torch.arange(high), torch.arange(wide), indexing="ij")
        box = torch.stack((x[column], y[line], x[column + 1], y[line + 1]), -1)

        def put(kept: torch.Tensor, made: torch.Tensor) -> torch.Tensor:
            """The first view, then lines of made rows, each with the newline row that the image had."""
            made, end = made.reshape(high, wide, *kept.shape[1:]), kept[-1:].expand(high, 1, *kept.shape[1:])
            return torch.cat((kept[:base], torch.cat((made, end), dim=1).flatten(0, 1)))

        return ImageRows(
            put(self.source_NM, source_NM),
            put(self.share_NM, shares_NM),
            put(self.line_N, line),
            put(self.column_N, column),
            put(self.box_N4, box),
        )


def pooled_videos(videos: int, frames: int, side: int, cover: float) -> Picture:
    """The picture of videos: frames at half their lines and columns, and a newline row after the last.

    Args:
        videos: How many.
        frames: Frames of each; they are planes and views.
        side: Patches along a side of a frame.
        cover: Share of a frame's side that its patches cover.
    """
    new = -(-side // 2)
    return _filmed(videos, frames, side, cover, bilinear((side, side), (new, new)), newline=1)


def averaged_videos(videos: int, frames: int, side: int, cover: float) -> Picture:
    """The picture of videos: every row is the mean of two by two patches; an odd last line belongs to none.

    Args:
        videos: How many.
        frames: Frames of each; they are planes and views.
        side: Patches along a side of a frame.
        cover: Share of a frame's side that its patches cover.
    """
    new = side // 2
    places = joined([(side, side)], 2).view(-1, MIXED)
    return _filmed(videos, frames, side, cover * 2 * new / side, (places, torch.full(places.shape, 0.25)), 0)


def _filmed(
    videos: int,
    frames: int,
    side: int,
    cover: float,
    mixed: tuple[torch.Tensor, torch.Tensor],
    newline: int,
) -> Picture:
    """Videos whose frames are mixed alike: places in a frame and shares of every row, line by line."""
    places, shares = mixed
    new = isqrt(len(places))
    views = torch.arange(videos * frames)
    line, column = torch.arange(new * new) // new, torch.arange(new * new) % new
    box = torch.stack((column, line, column + 1, line + 1), -1) * cover / new

    def ended(x: torch.Tensor, end: float) -> torch.Tensor:
        """Values of all rows, given those of each frame (or of any), with a newline row put last."""
        x = x.expand(len(views), *x.shape[1:]).reshape(videos, frames * new * new, *x.shape[2:])
        return F.pad(x, (*[0] * (2 * (x.ndim - 2)), 0, newline), value=end).flatten(0, 1)

    mix = ended(views[:, None, None] * side * side + places, -1)
    view = ended(views[:, None].expand(-1, new * new), -1)
    return Picture(
        lengths=(frames * new * new + newline,) * videos,
        views=(frames,) * videos,
        patches=videos * frames * side * side,
        patch_R=mix[:, 0],
        view_R=view,
        plane_R=torch.where(view < 0, view, view % frames),
        line_R=ended(line[None], -1),
        column_R=ended(column[None], -1),
        box_R4=ended(box[None], 0),
        mix_RM=mix,
        share_RM=ended(shares[None], 0),
    )


def bilinear(size: tuple[int, int], into: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """What a plane of lines and columns is interpolated to, row by row of the result.

    Returns:
        The places in the plane that each row lies between (N, M), the nearest first, and their shares.
    """
    (lines, high), (columns, wide) = (_linear(*pair) for pair in zip(size, into, strict=True))
    places = lines[:, None, :, None] * size[1] + columns[None, :, None, :]
    shares = high[:, None, :, None] * wide[None, :, None, :]
    return places.reshape(-1, MIXED), shares.reshape(-1, MIXED)


def _linear(size: int, into: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The two places of a line that each of the new ones lies between, and their shares; (into, 2) each."""
    # What interpolation makes of each place alone; one more, that nothing lies at, for lines of one place.
    shares = F.interpolate(torch.eye(size)[None], size=into, mode="linear")[0].T
    order = F.pad(shares, (0, 1)).argsort(dim=1, descending=True, stable=True)[:, :2]
    return order.clamp(max=size - 1), F.pad(shares, (0, 1)).gather(1, order)


def _edges(starts: torch.Tensor, end: torch.Tensor, into: int) -> torch.Tensor:
    """Where lines begin, and the last ends, once so many are made of them; on the picture."""
    edges = torch.cat((starts, end[None]))
    at = torch.arange(into + 1) * len(starts) / into
    low = at.long().clamp(max=len(starts) - 1)
    return edges[low] + (at - low) * (edges[low + 1] - edges[low])
