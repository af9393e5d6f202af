"""Skip-Vision's token merge as a method of its own, before the decoder.

Shape letters: B batch, N rows, T images that are reduced, P rows of an image, K rows that stay, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import torch

from saccade.core.layout import Views
from saccade.core.merge import Rule, mean_merge, token_merge
from saccade.core.precision import wide
from saccade.core.stages import Choice, Evidence, Stage
from saccade.methods.reducer import KeepReducer, rows_of
from saccade.methods.registry import register
from saccade.methods.survivors import rewrite_of, settled
from saccade.methods.towerwise import Groups, by_image


@register
@dataclass(frozen=True)
class TokenMerge(KeepReducer):
    """The token merge of Skip-Vision (arXiv 2503.21817), wherever rows come from.

    The rows of an image that are least like all its others (cosine of the decoder's input embeddings) stay;
    every other row joins the one of these that it is most like, and a group becomes the plain mean of its
    members, in the row of the one that stayed. Gradients pass through the means. Where positions close up,
    rows come in the authors' order, from the most to the least similar one, as if they had merged in the
    projector's place; else they keep order and positions, which is what ``merge_order="kept"`` does on a
    wrapped model. Its plain rival, the means of neighbours, is the rule ``mean``.

    Attributes:
        keep: What stays of the rows between: a fraction up to 1, rounded down but not to nothing, or a number
            of rows.
        first: Rows at the start of every image that are left alone: retained rows and their summary.
        last: Rows at its end that are left alone: the summary of skipped rows, the promoted last one.
        rule: ``similarity``, or ``mean``: runs of neighbours become their means, in the row of their middle.
    """

    name = "token_merge"
    title = "Token merge"
    paper = "https://arxiv.org/abs/2503.21817"
    compacts = True
    usual = 0.25

    first: int = 0
    last: int = 0
    rule: Rule = "similarity"

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("first", "last"):
            if type(value := getattr(self, key)) is not int or value < 0:
                raise ValueError(f"token_merge: {key} is a number of rows from 0, got {value!r}")
        if self.rule not in get_args(Rule):
            raise ValueError(f"token_merge: rule is similarity or mean, got {self.rule!r}")

    def stages(self, num_layers: int) -> tuple[Stage, ...]:
        return (Stage(0, self, compact=self.compact, rewrites=True, last=self.last),)

    def kept(self, stage: Stage, found: int, start: int, original: int, views: Views = ()) -> int:
        alone = self.first + self.last
        between, base = found - alone, (original if self.of == "original" else found) - alone
        if between <= 0:
            return found
        return alone + min(between, rows_of(self.amount, base))

    def choose(self, stage: Stage, evidence: Evidence) -> Choice:
        groups = by_image(evidence)
        hidden_TPD, rows = groups.take(evidence.hidden_BND), groups.real_TP.shape[1]
        stays = [max(k - self.first - self.last, 0) for k in groups.keep]
        homes_TK = torch.zeros(len(stays), max(stays, default=0), dtype=torch.long, device=hidden_TPD.device)
        states_TKD = hidden_TPD.new_zeros(*homes_TK.shape, hidden_TPD.shape[-1])
        weights_TKP = wide(hidden_TPD[:0]).new_zeros(*homes_TK.shape, rows)
        alone_TP = groups.real_TP.clone()
        # The authors' order: rows at the start, merged ones, rows at the end.
        order_TP = torch.arange(rows, device=hidden_TPD.device).expand_as(alone_TP).clone()
        order_TP += rows * (order_TP >= self.first)
        # Images of one size are merged together.
        for (size, keep), members in _alike(groups, stays).items():
            stop = size - self.last
            alone_TP[members, self.first : stop] = False
            if keep:
                merge = token_merge if self.rule == "similarity" else mean_merge
                merged = merge(hidden_TPD[members, self.first : stop], keep)
                homes_BK = merged.homes_BK + self.first
                homes_TK[members, :keep] = homes_BK
                place_K = torch.arange(self.first, self.first + keep, device=homes_BK.device)
                order_TP[members] = order_TP[members].scatter(1, homes_BK, place_K.expand_as(homes_BK))
                states_TKD[members, :keep] = merged.rows_BKD
                weights_TKP[members, :keep, self.first : stop] = wide(merged.weights_BKN)
        used_TK = torch.arange(homes_TK.shape[1]) < torch.tensor(stays, dtype=torch.long)[:, None]
        kept_TP = torch.zeros_like(alone_TP).long()
        kept_TP.scatter_add_(1, homes_TK, used_TK.to(homes_TK.device).long())
        keep_BN = groups.put(alone_TP | (kept_TP > 0), evidence.alive_BN)
        rewrite = rewrite_of(evidence, groups, homes_TK, used_TK, states_TKD, weights_TKP)
        order_BN = groups.put(order_TP, evidence.alive_BN)
        return settled(stage, evidence, keep_BN, groups.totals(evidence, groups.keep), rewrite, order_BN)


def _alike(groups: Groups, stays: list[int]) -> dict[tuple[int, int], list[int]]:
    """Images by their rows and what stays of them."""
    found: dict[tuple[int, int], list[int]] = {}
    for number, pair in enumerate(zip(groups.sizes, stays, strict=True)):
        found.setdefault(pair, []).append(number)
    return found
