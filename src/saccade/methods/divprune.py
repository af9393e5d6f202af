"""DivPrune: rows that are as unlike each other as possible are kept."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from saccade.core.precision import unit
from saccade.core.stages import Choice, Evidence, Stage
from saccade.methods.reducer import KeepReducer
from saccade.methods.registry import register
from saccade.methods.survivors import settled
from saccade.methods.towerwise import by_image


@register
@dataclass(frozen=True)
class DivPrune(KeepReducer):
    """DivPrune (arXiv 2503.02175): rows are picked one by one, each the farthest from those already picked.

    Distance is 1 - cosine of the decoder's input embeddings. The first row is the one farthest from its
    nearest neighbour. All rows of an image are candidates together, newline rows included; those that stay
    keep their order. Where rows are identical (a blank picture), the authors' code picks a row again that it
    has picked, and so keeps fewer than it was asked for; here every row is picked once.

    Attributes:
        keep: What stays of every image: a fraction up to 1, rounded to the nearest number of rows, and of two
            to the even one (``int(round(keep * rows))``, as the authors do), or a number of rows.
    """

    name = "divprune"
    version = 2
    title = "DivPrune"
    paper = "https://arxiv.org/abs/2503.02175"
    compacts = True
    usual = 64
    rounds = "nearest"

    def choose(self, stage: Stage, evidence: Evidence) -> Choice:
        groups = by_image(evidence)
        picked_TP = farthest(groups.take(evidence.hidden_BND), groups.real_TP, groups.keep)
        keep_BN = groups.put(picked_TP, evidence.alive_BN)
        return settled(stage, evidence, keep_BN, groups.totals(evidence, groups.keep))


def farthest(x_TPD: torch.Tensor, real_TP: torch.Tensor, keep: tuple[int, ...]) -> torch.Tensor:
    """Boolean (T, P): members of every group that are far from each other, picked greedily; ties by position.

    Args:
        x_TPD: What is compared by its cosine.
        real_TP: False at padding.
        keep: How many to pick of every group.
    """
    unit_TPD = unit(x_TPD)
    apart_TPP = 1 - unit_TPD @ unit_TPD.transpose(1, 2)
    itself_PP = torch.eye(x_TPD.shape[1], dtype=torch.bool, device=x_TPD.device)
    nearest_TP = apart_TPP.masked_fill(itself_PP | ~real_TP[:, None], float("inf")).amin(2)
    picked_TP = torch.zeros_like(real_TP)
    keep_T1 = torch.tensor(keep, dtype=torch.long, device=real_TP.device)[:, None]
    for step in range(max(keep, default=0)):
        # The first of equals; picked rows and padding never win while others are left.
        next_T1 = nearest_TP.masked_fill(picked_TP | ~real_TP, -float("inf")).argmax(1, keepdim=True)
        picked_TP = picked_TP.scatter(1, next_T1, picked_TP.gather(1, next_T1) | (step < keep_T1))
        apart_TP = apart_TPP.gather(1, next_T1[..., None].expand(-1, -1, real_TP.shape[1]))[:, 0]
        nearest_TP = apart_TP if step == 0 else torch.minimum(nearest_TP, apart_TP)
    return picked_TP
