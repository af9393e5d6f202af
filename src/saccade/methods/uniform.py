"""Uniform rows: a plain baseline, evenly spread over the picture."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import sqrt

import torch

from saccade.core.select import split
from saccade.core.stages import Choice, Evidence, Stage
from saccade.methods.reducer import DecoderReducer
from saccade.methods.registry import register
from saccade.methods.towerwise import alive_on_host


@register
@dataclass(frozen=True)
class Uniform(DecoderReducer):
    """Rows evenly spread over the picture, or its raster order where no grid is known, are kept.

    Spatial sampling in PruMerge (arXiv 2403.15388).

    An image's budget is split over its planes (the whole picture, the anyres tiles together) in proportion
    to their patches, and each plane gets evenly spaced lines of evenly spaced patches; a plane that is no
    full grid is thinned out evenly in raster order. So are all rows of an image whose grid is not known: of a
    prompt that is given as embeddings without its pictures. Newline rows stay only where patches are fewer
    than the budget.

    Attributes:
        layer: First layer that runs with the rest; 0 drops before the decoder.
    """

    name = "uniform"
    title = "Uniform grid"
    usual = 0.25
    earliest = 0

    layer: int = 0

    def stages(self, num_layers: int) -> tuple[Stage, ...]:
        self.check_layer(self.layer, num_layers, self.earliest)
        return (Stage(self.layer, self, compact=self.compact, places=True),)

    def choose(self, stage: Stage, evidence: Evidence) -> Choice:
        alive_BN, image_BN = alive_on_host(evidence), evidence.layout.image_BN
        # Where no grid is known, an image is one plane of one line.
        plane_BN = line_BN = column_BN = torch.zeros_like(image_BN)
        if evidence.grid is not None:
            plane_BN, line_BN, column_BN = (
                x.cpu() for x in (evidence.grid.plane_BN, evidence.grid.line_BN, evidence.grid.column_BN)
            )
        keep_BN = torch.zeros_like(alive_BN)
        for b, sample in enumerate(evidence.keep):
            for image, keep in enumerate(sample):
                rows = (alive_BN[b] & (image_BN[b] == image)).nonzero()[:, 0]
                plane, line, column = plane_BN[b, rows], line_BN[b, rows], column_BN[b, rows]
                planes = [(plane == p).nonzero()[:, 0] for p in plane[plane >= 0].unique().tolist()]
                shares = split(keep, tuple(len(p) for p in planes))
                for members, share in zip(planes, shares, strict=True):
                    keep_BN[b, rows[members[evenly(line[members], column[members], share)]]] = True
                others = rows[plane < 0]
                keep_BN[b, others[spread(len(others), keep - sum(shares))]] = True
        return Choice(keep_BN.to(evidence.alive_BN.device, non_blocking=True))


def evenly(line_P: torch.Tensor, column_P: torch.Tensor, keep: int) -> torch.Tensor:
    """Places of evenly spread patches among those of a plane."""
    height, width = int(line_P.max()) + 1, int(column_P.max()) + 1
    raster = (line_P * width + column_P).argsort(stable=True)
    full = len(raster) == height * width
    return raster[lattice(height, width, keep) if full else spread(len(raster), keep)]


def spread(found: int, keep: int) -> list[int]:
    """Evenly spaced places among so many: the middles of equal stretches."""
    return [(2 * j + 1) * found // (2 * keep) for j in range(keep)]


def lattice(height: int, width: int, keep: int) -> list[int]:
    """Places, in raster order, of so many patches evenly spread over a full grid.

    As many lines as make the spacing alike both ways; where the number does not divide, some have one more.
    """
    if not keep:
        return []
    lines = min(max(round(sqrt(keep * height / width)), -(-keep // width)), height, keep)
    ends = [i * keep // lines for i in range(lines + 1)]
    places = []
    for line, (start, end) in zip(spread(height, lines), pairwise(ends), strict=True):
        places += [line * width + column for column in spread(width, end - start)]
    return places
