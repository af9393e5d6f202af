"""VisPruner: part of the budget goes to what CLS attends to, the rest to what is unlike everything else."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from saccade.core.precision import unit
from saccade.core.stages import Choice, Evidence, Look, Stage
from saccade.methods.registry import register
from saccade.methods.survivors import kept_as_they_are
from saccade.methods.towerwise import Groups, seen
from saccade.methods.viewwise import KeepViewReducer

AT_ONCE = 8
"""Patches that a round of duplicate removal deletes."""


@register
@dataclass(frozen=True)
class VisPruner(KeepViewReducer):
    """VisPruner (arXiv 2412.01818, ICCV 2025): the most attended patches, and the most diverse of the others.

    Important patches have the most attention from CLS (received attention where the tower has none). The
    others are thinned out by rounds of duplicate removal on the features before the projector; their number
    may be odd, where the official code fails. Newline rows go, as in the official code. Where positions are
    kept, patches of a tile's padding stand in for rows that are dropped.

    Attributes:
        keep: What stays of every view (``share=image``: of every image): a fraction up to 1, rounded to the
            nearest number of rows (the authors give numbers, and of 576 rows 128 for 22.2 % and 64 for
            11.1 %), or a number of rows.
        important: Share of the budget for important patches, rounded down.
    """

    name = "vispruner"
    version = 2
    title = "VisPruner"
    paper = "https://arxiv.org/abs/2412.01818"
    compacts = True
    usual = 64
    rounds = "nearest"

    important: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.important, int | float) or not 0 <= self.important <= 1:
            raise ValueError(f"vispruner: important is a share of the budget, 0 to 1, got {self.important!r}")

    def stages(self, num_layers: int) -> tuple[Stage, ...]:
        unseen = self.share != "image"
        return (Stage(0, self, look=Look(tower="made"), compact=self.compact, unseen=unseen),)

    def choose(self, stage: Stage, evidence: Evidence) -> Choice:
        vision = seen(self.name, evidence)
        groups = self.groups(evidence, vision)
        scores_TP = groups.of(vision, lambda v: v.attention_BN)
        important = tuple(int(k * self.important + 1e-9) for k in groups.keep)
        important_TP = groups.top(scores_TP, important)
        features_TPV = groups.of(vision, lambda v: v.features_BNV)
        diverse_TP = distinct(groups, features_TPV, scores_TP, important_TP, important)
        return kept_as_they_are(stage, evidence, vision, groups, important_TP | diverse_TP)


def distinct(
    groups: Groups,
    features_TPV: torch.Tensor,
    scores_TP: torch.Tensor,
    taken_TP: torch.Tensor,
    taken: tuple[int, ...],
) -> torch.Tensor:
    """Boolean (T, P): what rounds of duplicate removal leave of every group's other members.

    The list starts in the order of descending scores. A round compares those at even places with those at odd
    places, deletes the even ones that are most alike an odd one, and goes on with the other even ones, most
    alike first, followed by the odd ones.

    Args:
        groups: The groups; members that are taken and those that are left make up ``keep``.
        features_TPV: Features that are compared by their cosine.
        scores_TP: What orders the first list.
        taken_TP: Members that are not on the list.
        taken: How many those are.
    """
    listed_TP = groups.real_TP & ~taken_TP
    unit_TPV = unit(features_TPV)
    like_TPP = unit_TPV @ unit_TPV.transpose(1, 2)
    list_TP = scores_TP.argsort(dim=1, descending=True, stable=True)
    list_TP = _first(list_TP, listed_TP.gather(1, list_TP))
    at_P = torch.arange(list_TP.shape[1], device=list_TP.device)
    now = [size - t for size, t in zip(groups.sizes, taken, strict=True)]
    goal = [keep - t for keep, t in zip(groups.keep, taken, strict=True)]
    while now != goal:
        there_TP = at_P < groups.column(tuple(now))
        there_TE, there_TO = there_TP[:, 0::2], there_TP[:, 1::2]
        even_TE, odd_TO = list_TP[:, 0::2], list_TP[:, 1::2]
        is_odd_TP = torch.zeros_like(listed_TP).scatter(1, odd_TO, there_TO)
        # Where nothing is odd all are alike (-2, below any cosine); even places past the end come last (-3).
        like_TP = like_TPP.masked_fill(~is_odd_TP[:, None], -2).amax(2)
        like_TE = like_TP.gather(1, even_TE).masked_fill(~there_TE, -3)
        drop = [min(AT_ONCE, n - g, (n + 1) // 2) for n, g in zip(now, goal, strict=True)]
        drop_T1 = groups.column(tuple(drop))
        even_TE = even_TE.gather(1, like_TE.argsort(dim=1, descending=True, stable=True))
        stays_TP = torch.cat((there_TE, there_TO), dim=1) & (at_P >= drop_T1)
        next_TP = _first(torch.cat((even_TE, odd_TO), dim=1), stays_TP)
        # A group that has reached its goal keeps its list.
        list_TP = torch.where(drop_T1 > 0, next_TP, list_TP)
        now = [n - d for n, d in zip(now, drop, strict=True)]
    return torch.zeros_like(listed_TP).scatter(1, list_TP, at_P < groups.column(tuple(goal)))


def _first(list_TP: torch.Tensor, wanted_TP: torch.Tensor) -> torch.Tensor:
    """The same lists with the wanted entries first, else in order."""
    return list_TP.gather(1, wanted_TP.int().argsort(dim=1, descending=True, stable=True))
