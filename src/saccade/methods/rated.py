"""What SparseVLM and SparseVLM+ share: text rows that rate the image, and the published schedules.

Shape letters: B batch, N rows, R text rows or asking rows, H heads.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, ClassVar

import torch

from saccade.core.layout import Views
from saccade.core.precision import wide
from saccade.core.stages import Counts, Evidence, Look, Stage
from saccade.methods.reducer import Amount, read_amount
from saccade.methods.staged import PUBLISHED_DEPTH, StagedReducer

PUBLISHED_ROWS = 576
"""Visual rows that the published schedules are of."""
PUBLISHED_LAYERS = (3, 7, 16)
"""First layer after each published stage: the authors cut at the output of layers 2, 6 and 15."""

Table = tuple[tuple[int, tuple[int, int, int]], ...]
"""Budgets, ascending, and the rows kept at the three stages."""
Recycling = tuple[float, float]
"""Part of the pruned rows that is recycled, and clusters per recycled row."""


@dataclass(frozen=True)
class RatedReducer(StagedReducer):
    """A reducer whose scores are the attention of raters: text rows that the image points to.

    Raters are the text rows after the last image that get more than the mean of a softmax over these rows of
    the plain products of embeddings, averaged over the visual rows; where none does (one such row, or ties),
    the last prompt row asks.

    Attributes:
        tokens: Visual rows of an image that leave a layer, averaged over the layers, as the papers count: a
            fraction of its rows, or a number. The published schedules (of 576 rows, 32 layers) are taken as
            they are; any other is found between them, in fractions of the image's rows and of the depth, so
            that the average comes to the target. What the layers before the first stage cost is the least.
    """

    published = PUBLISHED_LAYERS
    look = Look(ask="chosen")
    dial = "tokens"
    table: ClassVar[Table]

    tokens: Amount = 192

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "tokens", read_amount(self.tokens, f"{self.name}: tokens"))

    @property
    def recycling(self) -> Recycling | None:
        """What becomes of pruned rows, if anything."""
        return None

    def kept(self, stage: Stage, found: int, start: int, original: int, views: Views = ()) -> int:
        whole = original if self.of == "original" else start
        target = self.tokens if isinstance(self.tokens, int) else self.tokens * whole
        if target >= whole:
            return found
        befores = self.befores(self.depth)
        rows = schedule(self.table, target, whole, self.depth, befores, self.recycling)
        return left(found, min(found, rows[stage.number]), self.recycling)

    def asking(self, evidence: Evidence) -> torch.Tensor:
        hidden_BND = wide(evidence.hidden_BND)
        layout, device = evidence.layout, hidden_BND.device
        instruction_BN = layout.instruction_BN
        longest = int(instruction_BN.sum(1).max()) if layout.batch else 0
        at_BR = (~instruction_BN).long().argsort(dim=1, stable=True)[:, :longest]
        real_BR = instruction_BN.gather(1, at_BR).to(device, non_blocking=True)
        at_BR = at_BR.to(device, non_blocking=True)
        words_BRD = hidden_BND.gather(1, at_BR[..., None].expand(-1, -1, hidden_BND.shape[-1]))

        scores_BNR = (hidden_BND @ words_BRD.transpose(1, 2)).masked_fill(~real_BR[:, None], float("-inf"))
        shares_BNR = scores_BNR.double().softmax(-1).masked_fill(~evidence.alive_BN[..., None], 0)
        rating_BR = shares_BNR.sum(1) / evidence.alive_BN.sum(1, keepdim=True)
        mean_B1 = rating_BR.masked_fill(~real_BR, 0).sum(1, keepdim=True) / real_BR.sum(1, keepdim=True)
        # Ties are no raters, whatever rounding makes of them.
        rater_BR = real_BR & (rating_BR > mean_B1 * (1 + 1e-6))

        last_BN = layout.real_BN & (layout.real_BN.flip(1).cumsum(1).flip(1) == 1)
        raters_BN = torch.zeros_like(evidence.alive_BN).scatter(1, at_BR, rater_BR)
        return torch.where(raters_BN.any(1, keepdim=True), raters_BN, last_BN.to(device, non_blocking=True))

    @abstractmethod
    def scores(self, evidence: Evidence) -> torch.Tensor:
        """Scores (B, N) of the visual rows."""


def mean_of_raters(x_BHRN: torch.Tensor, evidence: Evidence) -> torch.Tensor:
    """Mean (B, H, N) over the asking rows that are real."""
    asks_BR: Any = evidence.asks_BR
    asks_B1R1: torch.Tensor = asks_BR[:, None, :, None]
    return torch.where(asks_B1R1, x_BHRN, 0).sum(2) / asks_B1R1.sum(2).clamp(min=1)


def recycled(pruned: int, recycling: Recycling | None) -> tuple[int, int]:
    """Rows that are recycled out of so many that were pruned, and the clusters they make."""
    if recycling is None or not pruned:
        return 0, 0
    rows = min(pruned, int(pruned * recycling[0] + 1e-9) + 1)
    return rows, min(rows, int(rows * recycling[1] + 1e-9) + 1)


def left(found: int, kept: int, recycling: Recycling | None) -> int:
    """Rows there are after a stage: those kept, and clusters."""
    return kept + recycled(found - kept, recycling)[1]


def parted(
    found: Counts, keep: Counts, recycling: Recycling | None
) -> tuple[tuple[tuple[int, int, int], ...], ...]:
    """Rows kept as they are, rows recycled and clusters of every image.

    An image that loses nothing is not touched. Where two splits leave as many rows, the one with fewer
    clusters is taken.
    """

    def part(before: int, after: int) -> tuple[int, int, int]:
        if after >= before:
            return before, 0, 0
        kept = after
        while left(before, kept, recycling) > after:
            kept -= 1
        return kept, *recycled(before - kept, recycling)

    return tuple(
        tuple(part(f, k) for f, k in zip(*sample, strict=True)) for sample in zip(found, keep, strict=True)
    )


@lru_cache(maxsize=1024)
def schedule(
    table: Table,
    target: float,
    rows: int,
    depth: int,
    befores: tuple[int, ...],
    recycling: Recycling | None = None,
) -> tuple[int, ...]:
    """Rows kept at every stage (clusters not counted), so that a target is met on average.

    Args:
        table: Published budgets.
        target: Rows that leave a layer, averaged over the layers.
        rows: Visual rows of the image.
        depth: Layers of the model.
        befores: First layer after each stage.
        recycling: What becomes of pruned rows.
    """
    published = dict(table)
    if (rows, depth, befores) == (PUBLISHED_ROWS, PUBLISHED_DEPTH, PUBLISHED_LAYERS) and target in published:
        return published[int(target)]

    def at(dial: float) -> tuple[int, ...]:
        shares = (_share(table, dial, before / depth) for before in befores)
        return tuple(max(int(rows * share + 0.5), 1 if target else 0) for share in shares)

    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        fits = average(at(middle), rows, depth, befores, recycling) <= target + 1e-9
        low, high = (middle, high) if fits else (low, middle)
    return at(low)


def average(
    kept: Sequence[int], rows: int, depth: int, befores: Sequence[int], recycling: Recycling | None
) -> float:
    """Visual rows that leave a layer, averaged over the layers: a stage counts for the layer before it."""
    alive, total, since = rows, 0, 0
    for count, before in zip(kept, befores, strict=True):
        total += alive * (before - 1 - since)
        alive, since = left(alive, min(alive, count), recycling), before - 1
    return (total + alive * (depth - since)) / depth


def _share(table: Table, dial: float, depth: float) -> float:
    """Part of the rows kept at a relative depth, on the broken line through the published schedules."""
    none, every = (0.0, (0.0, 0.0, 0.0)), (1.0, (1.0, 1.0, 1.0))
    known = [(b / PUBLISHED_ROWS, tuple(k / PUBLISHED_ROWS for k in ks)) for b, ks in table]
    places = [layer / PUBLISHED_DEPTH for layer in PUBLISHED_LAYERS]
    budgets = (none, *known, every)
    return _between(dial, [(b, _between(depth, list(zip(places, ks, strict=True)))) for b, ks in budgets])


def _between(x: float, points: Sequence[tuple[float, float]]) -> float:
    """Value at x of the broken line through some points, level beyond its ends."""
    if x <= points[0][0]:
        return points[0][1]
    for (x0, y0), (x1, y1) in pairwise(points):
        if x <= x1:
            return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
    return points[-1][1]
