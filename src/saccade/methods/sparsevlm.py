"""SparseVLM: text rows rate the image, and part of what is pruned is recycled in clusters.

Shape letters: B batch, N rows, I images of a sample, R asking rows, K singular values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from saccade.core.select import per_row, ranks
from saccade.core.stages import Choice, Counts, Evidence, Stage
from saccade.methods.rated import RatedReducer, Recycling, left, mean_of_raters, parted
from saccade.methods.recycling import cluster
from saccade.methods.registry import register
from saccade.methods.survivors import settled
from saccade.methods.towerwise import losing_rows


@register
@dataclass(frozen=True)
class SparseVLM(RatedReducer):
    """SparseVLM (arXiv 2410.04417, v1.5 of the code): the rows that the raters attend to most stay.

    Of the pruned rows the best are recycled: density-peak clusters of them, each the plain mean of its
    members, stand after the rows kept of their image (where positions are kept: in the place of their
    centre). Positions close up over what was dropped.

    Attributes:
        recycle: Whether pruned rows are recycled.
        tau: Part of the pruned rows that is recycled, and one more.
        theta: Clusters per recycled row, and one more.
        scale: Rank-adaptive pruning (v1.0 of the code): a stage keeps ``scale * rank + bias`` rows, with the
            rank of the raters' attention over the image; the authors use 13.5 and 0 for MME, 9 and 6 for
            POPE, 0.8 and 0 for TextVQA. How many is known on the way only: prices are those of ``tokens``,
            and an image that ``tokens`` would not cut at a stage is not cut there.
        bias: See ``scale``.
        seed: Of the noise that parts equal densities. It belongs to a row's place in its image.
    """

    name = "sparsevlm"
    title = "SparseVLM"
    paper = "https://arxiv.org/abs/2410.04417"
    compacts = True
    table = ((64, (66, 30, 17)), (96, (238, 48, 26)), (128, (303, 110, 36)), (192, (300, 200, 110)))

    recycle: bool = True
    tau: float = 0.3
    theta: float = 0.1
    scale: float | None = None
    bias: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 <= self.tau <= 1 and 0 <= self.theta <= 1):
            raise ValueError(f"sparsevlm: tau and theta are fractions, got {self.tau} and {self.theta}")
        if self.scale is not None and not 0 < self.scale < float("inf"):
            raise ValueError(f"sparsevlm: scale is a number above 0, got {self.scale}")
        if not abs(self.bias) < float("inf") or (self.bias and self.scale is None):
            raise ValueError(f"sparsevlm: bias is a number that goes with scale, got {self.bias}")
        if type(self.seed) is not int or self.seed < 0:
            raise ValueError(f"sparsevlm: seed is a number from 0, got {self.seed!r}")

    @property
    def recycling(self) -> Recycling | None:
        return (self.tau, self.theta) if self.recycle else None

    def scores(self, evidence: Evidence) -> torch.Tensor:
        weights: Any = evidence.weights_BHRN
        return mean_of_raters(weights, evidence).mean(1)

    def choose(self, stage: Stage, evidence: Evidence) -> Choice:
        keep, counts = evidence.keep, None
        if self.scale is not None:
            keep = counts = self._by_rank(evidence)
        parts = parted(evidence.found, keep, self.recycling)
        stay, taken, clusters = (_column(parts, i) for i in range(3))
        alive_BN, image_BN = evidence.alive_BN, evidence.image_BN
        place_BN = ranks(self.scores(evidence), alive_BN, image_BN)
        first_BN = per_row(stay, image_BN)
        kept_BN = alive_BN & (place_BN < first_BN)
        if not any(map(sum, clusters)):
            return Choice(kept_BN, counts)

        again_BN = alive_BN & ~kept_BN & (place_BN < first_BN + per_row(taken, image_BN))
        made = cluster(evidence, again_BN, place_BN - first_BN, taken, clusters, self.seed)
        is_cluster_BN = made.number_BN >= 0
        at_BN = ranks(torch.zeros_like(place_BN, dtype=torch.float32), kept_BN, image_BN)
        order_BN = torch.where(is_cluster_BN, first_BN + made.number_BN, at_BN)
        left_BN = (kept_BN | is_cluster_BN) & losing_rows(evidence)
        return settled(stage, evidence, left_BN, keep, made.rewrite, order_BN)

    def _by_rank(self, evidence: Evidence) -> Counts:
        """Rows of every image by the rank-adaptive rule. Waits for the device: counts depend on it."""
        weights: Any = evidence.weights_BHRN
        asks_BR: Any = evidence.asks_BR
        map_BRN = torch.where(asks_BR[..., None], weights.mean(1), 0)
        images = torch.arange(max(map(len, evidence.found)), device=asks_BR.device)
        own_BIN = (evidence.image_BN[:, None] == images[:, None]) & evidence.alive_BN[:, None]
        values_BIK = torch.linalg.svdvals(map_BRN[:, None] * own_BIN[:, :, None])
        # The usual tolerance of a matrix rank, by the sizes without padding.
        size_BI = torch.maximum(asks_BR.sum(1, keepdim=True), own_BIN.sum(-1))
        floor_BI = values_BIK.amax(-1) * size_BI * torch.finfo(values_BIK.dtype).eps
        ranks_BI = (values_BIK > floor_BI[..., None]).sum(-1).tolist()

        def after(found: int, keep: int, rank: int) -> int:
            # A map of full rank says that every row counts.
            if keep >= found or rank >= found:
                return found
            kept = min(max(int(self.scale * rank + self.bias), 0), found - 1) if self.scale else keep
            return left(found, kept, self.recycling)

        triples = zip(evidence.found, evidence.keep, ranks_BI, strict=True)
        return tuple(tuple(after(*one) for one in zip(f, k, r, strict=False)) for f, k, r in triples)


def _column(parts: tuple[tuple[tuple[int, int, int], ...], ...], i: int) -> Counts:
    return tuple(tuple(part[i] for part in sample) for sample in parts)
