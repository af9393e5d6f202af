"""SparseVLM+: raters without the pull of near positions, heads that look at the image, no recycling.

Shape letters: B batch, N rows, R asking rows, H heads, W head width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from saccade.core.precision import wide
from saccade.core.select import top
from saccade.core.stages import Choice, Evidence, Look, Stage
from saccade.methods.rated import RatedReducer, mean_of_raters
from saccade.methods.registry import register


@register
@dataclass(frozen=True)
class SparseVLMPlus(RatedReducer):
    """SparseVLM+ (v2 of arXiv 2410.04417): scores are freed of what rotary positions alone do to them.

    The attention of the raters is divided by ``B_ij = <R_i 1, R_j 1> / sqrt(W)``, the product that two
    vectors of ones have after rotation (at long range it can be small or negative, as in the authors' code).
    Then the heads that look most at the image are averaged. Dropped rows are gone, positions are kept.

    Attributes:
        heads: Heads that are averaged: those with the largest sums of divided attention over the sample's
            visual rows.
    """

    name = "sparsevlm_plus"
    title = "SparseVLM+"
    paper = "https://arxiv.org/abs/2410.04417"
    table = ((64, (66, 34, 20)), (96, (246, 54, 28)), (128, (238, 108, 60)), (192, (300, 200, 118)))

    look = Look(ask="chosen", rotary=True)

    heads: int = 14

    def __post_init__(self) -> None:
        super().__post_init__()
        if type(self.heads) is not int or self.heads < 1:
            raise ValueError(f"sparsevlm_plus: heads is a number from 1, got {self.heads!r}")

    def scores(self, evidence: Evidence) -> torch.Tensor:
        weights_BHRN: Any = evidence.weights_BHRN
        bias_BRN = position_bias(evidence)
        rated_BHN = mean_of_raters(weights_BHRN / bias_BRN[:, None], evidence)
        rated_BHN = rated_BHN.masked_fill(~evidence.alive_BN[:, None], 0)
        mass_BH = rated_BHN.sum(-1)
        best_BH = mass_BH.argsort(dim=1, descending=True, stable=True)[:, : self.heads]
        return rated_BHN.gather(1, best_BH[..., None].expand(-1, -1, rated_BHN.shape[-1])).mean(1)

    def choose(self, stage: Stage, evidence: Evidence) -> Choice:
        return Choice(top(self.scores(evidence), evidence.alive_BN, evidence.image_BN, evidence.keep))


def position_bias(evidence: Evidence) -> torch.Tensor:
    """``B_ij`` of the asking rows (i) and all rows (j), (B, R, N) in float32 at least."""
    rotary: Any = evidence.rotary
    asking_BR: Any = evidence.asking_BR
    cos_BNW, sin_BNW = (wide(part).expand(len(asking_BR), -1, -1) for part in rotary)
    index = asking_BR[..., None].expand(-1, -1, cos_BNW.shape[-1])
    # <R_i 1, R_j 1> sums 2 cos of the angle between i and j over pairs of channels; each pair stands twice.
    near_BRN: torch.Tensor = cos_BNW.gather(1, index) @ cos_BNW.transpose(1, 2)
    near_BRN = near_BRN + sin_BNW.gather(1, index) @ sin_BNW.transpose(1, 2)
    return near_BRN / math.sqrt(cos_BNW.shape[-1])
