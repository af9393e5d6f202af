"""HiPrune: what the tower's middle looks at, what lies beside that, and what its last layer looks at.

Shape letters: B batch, N rows, T views, P patches of a view.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from saccade.core.select import ranks
from saccade.core.stages import Choice, Evidence, Look, Stage
from saccade.methods.reducer import KeepReducer
from saccade.methods.registry import register
from saccade.methods.survivors import settled
from saccade.methods.towerwise import Groups, by_view, seen

AROUND = 5
"""A patch and the four beside it."""


@register
@dataclass(frozen=True)
class HiPrune(KeepReducer):
    """HiPrune (arXiv 2508.00553): anchors, buffers and registers, by attention inside the vision tower.

    Anchors are the patches that get the most attention of all rows of their view in a middle layer of the
    tower; buffers are the patches left, right, above and below of them; registers get the most attention of
    all rows in the layer that makes the features, and fill the budget. Scores are means over heads; where the
    tower joins patches, means over those of a row. The authors find neighbours by arithmetic on patch
    numbers, so that the first patch of a line counts as beside the last of the line before; here they are
    neighbours in the picture. They give every view of an image an equal part of its budget, padding
    included; here views have parts in proportion to their patches that are rows. Where anchors and buffers
    would exceed the budget, the buffers that the middle layer looks at most stay. Newline rows go.

    Attributes:
        keep: What stays of every image: a fraction up to 1, rounded down (the authors give 33.4 %, 22.3 % and
            11.2 % on Qwen2.5-VL), or a number of rows (192, 128 and 64 of 576 on LLaVA-1.5).
        alpha: Share of the budget that is meant for anchors and buffers.
        tower_layer: The middle layer: its number from 1, or a share of the tower's depth. The authors take
            the 9th of CLIP's 24 layers and the 16th of the 32 of Qwen2.5-VL.
    """

    name = "hiprune"
    title = "HiPrune"
    paper = "https://arxiv.org/abs/2508.00553"
    compacts = True
    usual = 64

    alpha: float = 0.1
    tower_layer: int | float = 0.375

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.alpha, int | float) or not 0 <= self.alpha <= 1:
            raise ValueError(f"hiprune: alpha is a share of the budget, 0 to 1, got {self.alpha!r}")
        layer: Any = self.tower_layer
        whole = isinstance(layer, int) and not isinstance(layer, bool) and layer >= 1
        if not whole and not (isinstance(layer, float) and 0 < layer < 1):
            raise ValueError(
                "hiprune: tower_layer is the number of a layer of the vision tower, from 1, or a share of "
                f"its depth between 0 and 1, got {layer!r}"
            )

    def stages(self, num_layers: int) -> tuple[Stage, ...]:
        look = Look(tower="made", received=(self.tower_layer, "made"))
        return (Stage(0, self, look=look, compact=self.compact),)

    def choose(self, stage: Stage, evidence: Evidence) -> Choice:
        vision = seen(self.name, evidence)
        groups = by_view(evidence, vision)
        middle_TP, last_TP = (groups.take(x_BN) for x_BN in vision.received_BN)
        anchors = tuple(min(round(keep * self.alpha / AROUND), keep) for keep in groups.keep)
        anchor_TP = groups.top(middle_TP, anchors)
        buffer_TP = beside(evidence, groups, anchor_TP) & groups.real_TP & ~anchor_TP
        keep_T1 = groups.column(groups.keep)
        held_TP = anchor_TP | _best(middle_TP, buffer_TP, keep_T1 - groups.column(anchors))
        register_TP = _best(last_TP, groups.real_TP & ~held_TP, keep_T1 - held_TP.sum(1, keepdim=True))
        keep_BN = groups.put(held_TP | register_TP, evidence.alive_BN)
        return settled(stage, evidence, keep_BN, groups.totals(evidence, groups.keep))


def _best(scores_TP: torch.Tensor, candidates_TP: torch.Tensor, most_T1: torch.Tensor) -> torch.Tensor:
    """The highest-scored candidates of every group, so many of each."""
    one_group_TP = torch.zeros_like(scores_TP, dtype=torch.long)
    return candidates_TP & (ranks(scores_TP, candidates_TP, one_group_TP) < most_T1)


def beside(evidence: Evidence, groups: Groups, marked_TP: torch.Tensor) -> torch.Tensor:
    """Boolean (T, P): members left, right, above or below of a marked one of their group."""
    grid: Any = evidence.grid
    line_TP, column_TP = groups.take(grid.line_BN), groups.take(grid.column_BN)
    if not line_TP.numel():
        return marked_TP
    # An empty line and column all around, so that a step never leaves the table or turns a corner.
    lines, columns = int(line_TP.max()) + 3, int(column_TP.max()) + 3
    at_TP = ((line_TP + 1) * columns + column_TP + 1).masked_fill(~groups.real_TP, 0)
    table_TC = torch.zeros(len(at_TP), lines * columns, device=at_TP.device)
    table_TC.scatter_reduce_(1, at_TP, (marked_TP & groups.real_TP).float(), "amax")
    steps = (at_TP - 1, at_TP + 1, at_TP - columns, at_TP + columns)
    return torch.stack([table_TC.gather(1, at.clamp(min=0)) for at in steps]).amax(0) > 0
