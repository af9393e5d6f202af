"""PruMerge: the patches that CLS attends to far more than to the others gather what is like them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch.nn.functional import normalize, one_hot
from torch.nn.utils.rnn import pad_sequence

from saccade.core.layout import Views
from saccade.core.precision import unit, wide
from saccade.core.stages import Choice, Evidence, Look, Stage
from saccade.methods.reducer import KeepReducer, rows_of
from saccade.methods.registry import register
from saccade.methods.survivors import mixed, rewrite_of, settled
from saccade.methods.towerwise import Groups, by_view, seen

NEIGHBOURS = 32
"""Patches that are merged into each patch that is kept."""


@register
@dataclass(frozen=True)
class PruMerge(KeepReducer):
    """PruMerge (arXiv 2403.15388): outliers of the CLS attention stay, and what is like them is merged in.

    Attention, keys and features are those of the layer that reads the decoder's features, all heads as one.
    A kept patch adds the attention-weighted sum of the 32 patches with the most similar keys, kept or not;
    one extra row is the weighted sum of all pruned patches (none where nothing was pruned). Every view
    (anyres tile) is reduced on its own, where the official code takes quartiles over the batch; at least one
    patch is kept; newline rows go. Where positions close up, rows come in the official order, by attention
    and the extra row last; else they stay, and the extra row takes the place of the last pruned patch. Where
    the tower has no CLS row, weights are shares of the attention that patches receive. Gradients flow through
    the weights as through the features, where the authors' code runs its tower without any; they do not where
    ToMe has merged patches, nor through the weights of what is added later (DeepStack).

    Attributes:
        keep: Rows that are kept, extra row included; by default the data decide (about 5.5 % in the paper).
            Patches of a fraction up to 1 are rounded down, as in the authors' code, and the extra row comes
            on top.
    """

    name = "prumerge"
    version = 2
    title = "PruMerge"
    paper = "https://arxiv.org/abs/2403.15388"
    compacts = True

    nominal: ClassVar[float] = 0.055
    """Share of the patches that the paper finds kept; the price list goes by it where the data decide."""
    extra: ClassVar[int] = 1
    """Rows that the price list adds to it."""

    @classmethod
    def usual_values(cls) -> dict[str, str]:
        return super().usual_values() | {"keep": "the picture decides"}

    def stages(self, num_layers: int) -> tuple[Stage, ...]:
        return (Stage(0, self, look=Look(tower="reads", weighs=True), compact=self.compact, rewrites=True),)

    def kept(self, stage: Stage, found: int, start: int, original: int, views: Views = ()) -> int:
        base = original if self.of == "original" else found
        if isinstance(self.keep, float):
            patches = rows_of(self.keep, base)
            return min(found, patches + 1 if 0 < patches < base else patches)
        if self.keep is not None:
            return min(found, self.keep)
        return min(found, rows_of(self.nominal, base) + self.extra)

    def pick(self, attention_P: np.ndarray, keep: int | None) -> list[int]:
        """Places of the patches of a view that are kept, in the official order.

        Args:
            attention_P: Attention that every patch gets.
            keep: How many to keep, or None where the data decide.
        """
        return by_attention(attention_P)[: outliers(attention_P) if keep is None else keep]

    def choose(self, stage: Stage, evidence: Evidence) -> Choice:
        vision = seen(self.name, evidence)
        groups = by_view(evidence, vision)
        weights_TP = wide(groups.take(vision.single_BN)) * groups.real_TP
        if vision.cls_TV is None:
            weights_TP = normalize(weights_TP, p=1, dim=1)
        homes, pruned_TP, extra_TK = self._plan(weights_TP, groups)
        homes_TK, used_TK = _table(homes, weights_TP.device)
        near_TKP = gathered(groups.take(vision.keys_BNV), weights_TP, groups.real_TP, homes_TK)
        rest_T1P = (weights_TP * pruned_TP)[:, None]
        sources_TKP = torch.where(extra_TK.to(rest_T1P.device)[..., None], rest_T1P, near_TKP)
        states_TKD = vision.project(mixed(sources_TKP, groups.take(vision.features_BNV)))
        rewrite = rewrite_of(evidence, groups, homes_TK, used_TK, states_TKD, sources_TKP)
        # Numbers from 1, view by view as in the table; 0 is what does not live on.
        places_TK = torch.arange(1, used_TK.numel() + 1).view(used_TK.shape) * used_TK
        order_TP = torch.zeros_like(groups.rows_TP).scatter_add(1, homes_TK, places_TK.to(homes_TK.device))
        order_BN = groups.put(order_TP, evidence.alive_BN)
        totals = groups.totals(evidence, tuple(len(h) for h in homes))
        return settled(stage, evidence, order_BN > 0, totals, rewrite, order_BN)

    def _plan(
        self, weights_TP: torch.Tensor, groups: Groups
    ) -> tuple[list[list[int]], torch.Tensor, torch.Tensor]:
        """What is kept of every view. How many depends on the data: the host waits.

        Returns:
            Members in whose rows something lives on, in the official order; which members are pruned (T, P);
            and which entries of that list, made a table (T, K), are extra rows.
        """
        homes, pruned_TP = [], groups.real_TP.clone().cpu()
        extras = []
        for t, attention_P in enumerate(weights_TP.detach().cpu().double().numpy()):
            size, share = groups.sizes[t], groups.keep[t]
            fixed = None if self.keep is None else max(share - 1, 0)
            kept = self.pick(attention_P[:size], fixed)
            pruned_TP[t, kept] = False
            has_extra = len(kept) < size and (self.keep is None or share > 0)
            last = [int(pruned_TP[t].nonzero()[-1])] if has_extra else []
            extras.append(len(kept) if has_extra else -1)
            homes.append(kept + last)
        numbers_K = torch.arange(max((len(h) for h in homes), default=0))
        extra_TK = numbers_K == torch.tensor(extras, dtype=torch.long)[:, None]
        return homes, pruned_TP.to(weights_TP.device), extra_TK


def by_attention(attention_P: np.ndarray) -> list[int]:
    """Places in the order of descending attention, ties by position."""
    order: list[int] = np.argsort(-attention_P, kind="stable").tolist()
    return order


def outliers(attention_P: np.ndarray) -> int:
    """How many get more than the third quartile plus 1.5 interquartile ranges; at least 1."""
    first, third = np.percentile(attention_P, [25, 75])
    return max(1, int((attention_P > third + 1.5 * (third - first)).sum()))


def gathered(
    keys_TPV: torch.Tensor, weights_TP: torch.Tensor, real_TP: torch.Tensor, kept_TK: torch.Tensor
) -> torch.Tensor:
    """Weights (T, K, P) of patches in the kept ones: 1 of itself, their attention of the nearest others.

    Args:
        keys_TPV: Keys that are compared by their cosine, all heads as one.
        weights_TP: Attention that every patch gets.
        real_TP: False at padding.
        kept_TK: Places of the patches that are kept.
    """
    unit_TPV = unit(keys_TPV)
    unit_TKV = unit_TPV.gather(1, kept_TK[..., None].expand(-1, -1, unit_TPV.shape[2]))
    itself_TKP = one_hot(kept_TK, real_TP.shape[1]).bool()
    others_TKP = real_TP[:, None] & ~itself_TKP
    like_TKP = (unit_TKV @ unit_TPV.transpose(1, 2)).masked_fill(~others_TKP, -2)
    near_TKM = like_TKP.argsort(dim=2, descending=True, stable=True)[..., :NEIGHBOURS]
    near_TKP = torch.zeros_like(others_TKP).scatter(2, near_TKM, True) & others_TKP
    return weights_TP[:, None] * near_TKP + itself_TKP.to(weights_TP.dtype)


def _table(lists: Sequence[Sequence[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Lists side by side (T, K) on the device, and which entries count, on the host."""
    tensors = [torch.tensor(one, dtype=torch.long) for one in lists] or [torch.zeros(0, dtype=torch.long)]
    table_TK = pad_sequence(tensors, batch_first=True, padding_value=-1)[: len(lists)]
    return table_TK.clamp(min=0).to(device), table_TK >= 0
