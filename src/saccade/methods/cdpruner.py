"""CDPruner: rows that are unlike each other and bear on the instruction are kept.

Shape letters: B batch, N rows, T images, P rows of an image, D width, K picks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from saccade.core.precision import unit, wide
from saccade.core.stages import Choice, Evidence, Look, Stage
from saccade.methods.reducer import KeepReducer
from saccade.methods.registry import register
from saccade.methods.survivors import settled
from saccade.methods.towerwise import by_image

LEAST = 1e-6
"""What the authors add to every relevance, so that no row is out of the question."""

SPENT = 1e-5
"""Gains below it are rounding: what is picked spans such rows already."""


ALIKE = 1e-4
"""Share by which gains of equal rows (newlines) may differ by rounding: the first of them is taken."""


@register
@dataclass(frozen=True)
class CDPruner(KeepReducer):
    """CDPruner (arXiv 2506.10967): the greedy most likely subset of a determinantal point process.

    Its kernel is the cosine of the decoder's input embeddings, times the relevance of both rows. The authors
    take a row's relevance on LLaVA-1.5 from CLIP, whose text encoder no checkpoint of transformers brings
    along; here it is, for every model, as OpenVINO GenAI has it for models without a paired text encoder: the
    mean cosine with the embeddings of the instruction (text after the last image; all text where none
    follows), scaled so that those of an image reach from 0 to 1. The authors prune every view of an image on
    its own and leave newline rows alone; here all rows of an image are candidates together, so that of what
    two views show alike one is enough. Where what is picked spans all that is left, the most relevant rows
    are next; the authors' code divides by zero there.

    Attributes:
        keep: What stays of every image: a fraction up to 1, rounded to the nearest number of rows (the
            authors give numbers: of 576 rows 192, 128, 64 and 32), or a number of rows.
        theta: How much relevance counts beside diversity, from 0 (not at all) to below 1, as in the authors'
            appendix: relevance becomes ``exp(theta / (2 (1 - theta)) * relevance)``. Relevance as it is if
            left out, as in their results.
    """

    name = "cdpruner"
    title = "CDPruner"
    paper = "https://arxiv.org/abs/2506.10967"
    compacts = True
    usual = 64
    rounds = "nearest"
    look = Look(words=True)

    theta: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        theta = self.theta
        if theta is not None and (not isinstance(theta, int | float) or not 0 <= theta < 1):
            raise ValueError(f"cdpruner: theta is a weight from 0 to below 1, got {theta!r}")

    def choose(self, stage: Stage, evidence: Evidence) -> Choice:
        groups = by_image(evidence)
        relevance_TP = scaled(groups.take(_relevance(evidence)), groups.real_TP)
        if self.theta is not None:
            relevance_TP = (relevance_TP * (self.theta / (2 * (1 - self.theta)))).exp()
        picked_TP = likeliest(groups.take(evidence.hidden_BND), relevance_TP, groups.real_TP, groups.keep)
        keep_BN = groups.put(picked_TP, evidence.alive_BN)
        return settled(stage, evidence, keep_BN, groups.totals(evidence, groups.keep))


def _relevance(evidence: Evidence) -> torch.Tensor:
    """Mean cosine (B, N) of every row with the instruction's."""
    layout, unit_BND = evidence.layout, unit(evidence.hidden_BND)
    asks_BN = layout.instruction_BN
    asks_BN = torch.where(asks_BN.any(1, keepdim=True), asks_BN, layout.text_BN)
    asks_BN = asks_BN.to(unit_BND.device, non_blocking=True).to(unit_BND.dtype)
    mean_BD = torch.einsum("bn,bnd->bd", asks_BN, unit_BND) / asks_BN.sum(1, keepdim=True).clamp(min=1)
    return torch.einsum("bnd,bd->bn", unit_BND, mean_BD)


def scaled(scores_TP: torch.Tensor, real_TP: torch.Tensor) -> torch.Tensor:
    """Scores of every group between 0 and 1, a little above; 1 where all of a group are equal."""
    low_T1 = scores_TP.masked_fill(~real_TP, torch.inf).amin(1, keepdim=True)
    high_T1 = scores_TP.masked_fill(~real_TP, -torch.inf).amax(1, keepdim=True)
    return (scores_TP - low_T1 + LEAST) / (high_T1 - low_T1 + LEAST)


def likeliest(
    x_TPD: torch.Tensor, relevance_TP: torch.Tensor, real_TP: torch.Tensor, keep: tuple[int, ...]
) -> torch.Tensor:
    """Boolean (T, P): members of every group picked greedily by how much each adds to the determinant.

    Ties go by position, and members that add nothing by relevance.

    Args:
        x_TPD: What is compared by its cosine.
        relevance_TP: Weight of every member.
        real_TP: False at padding.
        keep: How many to pick of every group.
    """
    unit_TPD, relevance_TP = unit(x_TPD), wide(relevance_TP)
    kernel_TPP = unit_TPD @ unit_TPD.transpose(1, 2) * relevance_TP[:, :, None] * relevance_TP[:, None]
    # The kernel's diagonal, where equal relevance is equal to the last bit.
    gain_TP = relevance_TP.square() * unit_TPD.any(-1)
    # Below every gain that counts.
    spent_TP = relevance_TP - relevance_TP.amax(1, keepdim=True) - 1
    picked_TP = torch.zeros_like(real_TP)
    keep_T1 = torch.tensor(keep, dtype=torch.long, device=real_TP.device)[:, None]
    steps = max(keep, default=0)
    rows_KTP = kernel_TPP.new_zeros(steps, *real_TP.shape)
    for step in range(steps):
        worth_TP = torch.where(gain_TP > SPENT, gain_TP, spent_TP)
        worth_TP = worth_TP.masked_fill(picked_TP | ~real_TP, -torch.inf)
        most_T1 = worth_TP.amax(1, keepdim=True)
        next_T1 = (worth_TP >= most_T1 - ALIKE * most_T1.abs()).int().argmax(1, keepdim=True)
        picked_TP = picked_TP.scatter(1, next_T1, picked_TP.gather(1, next_T1) | (step < keep_T1))
        known_KT = rows_KTP[:step].gather(2, next_T1.expand(step, -1, -1))[..., 0]
        like_TP = kernel_TPP.gather(1, next_T1[..., None].expand(-1, -1, real_TP.shape[1]))[:, 0]
        left_TP = like_TP - torch.einsum("kt,ktp->tp", known_KT, rows_KTP[:step])
        gain_T1 = gain_TP.gather(1, next_T1)
        row_TP = torch.where(gain_T1 > SPENT, left_TP / gain_T1.clamp(min=SPENT).sqrt(), 0)
        rows_KTP[step] = row_TP
        gain_TP = gain_TP - row_TP.square()
    return picked_TP
