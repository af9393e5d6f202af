"""FastV: what the last prompt row does not attend to is dropped early."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from saccade.core.stages import Evidence, Look
from saccade.methods.reducer import DecoderReducer
from saccade.methods.registry import register


@register
@dataclass(frozen=True)
class FastV(DecoderReducer):
    """FastV (arXiv 2403.06764): before layer K the visual rows with the least attention are dropped.

    Scores are the attention of the last prompt row in layer K-1, mean over heads. Rows are chosen once, in
    prefill (the paper's cacheless code chose anew for every token), and keep their positions.

    Attributes:
        keep: What stays of every image: a fraction up to 1, rounded to the nearest number of rows, and of two
            to the even one (the authors give what is dropped, r, and keep ``round(rows * (1 - r))``), or a
            number of rows.
        layer: K, the first layer that runs with the rest; 3 as in the authors' scripts.
    """

    name = "fastv"
    version = 2
    title = "FastV"
    paper = "https://arxiv.org/abs/2403.06764"

    rounds = "nearest"
    look = Look(ask="last")

    layer: int = 3

    def scores(self, evidence: Evidence) -> torch.Tensor:
        weights_BHRN: Any = evidence.weights_BHRN
        scores_BN: torch.Tensor = weights_BHRN.mean(1)[:, 0]
        return scores_BN
