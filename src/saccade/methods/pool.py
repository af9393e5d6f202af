"""Average pooling: a plain baseline, windows of the picture become one row each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isqrt

import torch
from torch.nn.utils.rnn import pad_sequence

from saccade.core.layout import Views
from saccade.core.precision import wide
from saccade.core.stages import Choice, Evidence, Grid, Rewrite, Stage
from saccade.methods.reducer import Reducer
from saccade.methods.registry import register
from saccade.methods.survivors import mixed, settled
from saccade.methods.towerwise import alive_on_host

WIDEST = 32
"""Side of the widest window that a FLOPs ratio can lead to."""


@register
@dataclass(frozen=True)
class Pool(Reducer):
    """Windows of ``factor`` by ``factor`` rows become their mean (pooling as in DeCo, arXiv 2405.20985).

    Each plane (the whole picture, the anyres tiles together) is pooled on its own; windows at the border
    average what is there. A mean lives in its window's first row. Of newline rows (LLaVA-NeXT) the first
    of each pooled line stays. Positions close up, so that it equals a prompt with fewer placeholders; where
    they cannot (mRoPE), a mean has the position of its window's first row.

    Attributes:
        factor: Side of a window, in rows of the decoder; 1 changes nothing.
    """

    name = "pool"
    title = "Average pooling"
    compacts = True

    factor: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if type(self.factor) is not int or self.factor < 1:
            raise ValueError(f"pool: factor is the side of a window in rows, from 1, got {self.factor!r}")

    def stages(self, num_layers: int) -> tuple[Stage, ...]:
        return (Stage(0, self, compact=self.compact, rewrites=True, places=True),)

    def kept(self, stage: Stage, found: int, start: int, original: int, views: Views = ()) -> int:
        """Of a square exactly what stays; else what would without borders, and the choice tells the truth."""
        side = isqrt(found)
        if side * side == found:
            return (-(-side // self.factor)) ** 2
        return -(-found // self.factor**2)

    def max_strength(self, num_layers: int, order: Sequence[int] | None = None) -> int:
        return WIDEST - 1

    def at_strength(self, strength: int) -> Pool:
        return replace(self, factor=strength + 1, flops=None)

    def choose(self, stage: Stage, evidence: Evidence) -> Choice:
        if evidence.grid is None:
            raise ValueError(
                "pool needs to know where the visual rows lie in the picture, and this forward does not tell "
                "(images given as embeddings?): give pixel_values, or use uniform or random"
            )
        alive_BN, hidden_BND = alive_on_host(evidence), evidence.hidden_BND
        keep_BN, totals = torch.zeros_like(alive_BN), []
        homes: list[torch.Tensor] = []
        weights: list[torch.Tensor] = []
        for b, images in enumerate(_pictures(evidence, evidence.grid, alive_BN)):
            windows, counts = [], []
            for keep, found, image in zip(evidence.keep[b], evidence.found[b], images, strict=True):
                pooled, ends = windows_of(image, self.factor)
                if keep >= found:
                    pooled, ends = [], [row for row, *_ in image if alive_BN[b, row]]
                keep_BN[b, [window[0] for window in pooled] + ends] = True
                windows += pooled
                counts.append(len(pooled) + len(ends))
            totals.append(tuple(counts))
            homes.append(torch.tensor([window[0] for window in windows], dtype=torch.long))
            weights.append(_means(windows, alive_BN.shape[1], wide(hidden_BND[:0]).dtype))
        device = hidden_BND.device
        homes_BS = pad_sequence(homes, batch_first=True, padding_value=-1).to(device, non_blocking=True)
        sources_BSN = pad_sequence(weights, batch_first=True).to(device, non_blocking=True)
        rewrite = Rewrite(homes_BS, mixed(sources_BSN, hidden_BND), sources_BSN)
        return settled(stage, evidence, keep_BN.to(device, non_blocking=True), tuple(totals), rewrite)


Row = tuple[int, int, int, int, bool]
"""Row number, plane, line, column (the last three -1 where it is no patch), and whether it is alive."""


def windows_of(image: Sequence[Row], factor: int) -> tuple[list[list[int]], list[int]]:
    """Living rows of every window of an image, and the newline rows that stay."""
    windows: dict[tuple[int, int, int], list[int]] = {}
    ends: dict[tuple[int, int], int] = {}
    # A newline row ends the line of the patch before it.
    line_of_newline = (-1, -1)
    for row, plane, line, column, alive in image:
        if plane >= 0:
            line_of_newline = (plane, line // factor)
            if alive:
                windows.setdefault((*line_of_newline, column // factor), []).append(row)
        elif alive:
            ends.setdefault(line_of_newline, row)
    return list(windows.values()), list(ends.values())


def _pictures(evidence: Evidence, grid: Grid, alive_BN: torch.Tensor) -> list[list[list[Row]]]:
    """Rows of every image of every sample."""
    image_BN = evidence.layout.image_BN
    parts = [x.cpu() for x in (grid.plane_BN, grid.line_BN, grid.column_BN)]
    pictures: list[list[list[Row]]] = []
    for b, sample in enumerate(evidence.found):
        images: list[list[Row]] = [[] for _ in sample]
        columns = (image_BN[b].tolist(), *(part[b].tolist() for part in parts), alive_BN[b].tolist())
        for row, (image, *where) in enumerate(zip(*columns, strict=True)):
            if image >= 0:
                images[image].append((row, *where))
        pictures.append(images)
    return pictures


def _means(windows: Sequence[Sequence[int]], rows: int, dtype: torch.dtype) -> torch.Tensor:
    """Weights (S, N) of rows in the mean of each window."""
    weights = torch.zeros(len(windows), rows, dtype=dtype)
    slots = [s for s, window in enumerate(windows) for _ in window]
    members = [row for window in windows for row in window]
    shares = [1 / len(window) for window in windows for _ in window]
    weights[slots, members] = torch.tensor(shares, dtype=dtype)
    return weights
