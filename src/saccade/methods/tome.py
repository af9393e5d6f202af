"""ToMe: similar patches merge inside the vision tower, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch.nn.utils.rnn import pad_sequence

from saccade.core.bipartite import TowerMerge
from saccade.core.layout import Views
from saccade.core.select import count
from saccade.core.stages import Choice, Evidence, Look, Rewrite, Stage
from saccade.core.tower import TowerAbility, merged_away
from saccade.methods.reducer import Reducer
from saccade.methods.registry import register
from saccade.methods.towerwise import losing_rows, seen

LAYERS, PATCHES = 23, 576
"""Layers that make LLaVA's features (CLIP-L/14-336, feature layer -2), and the patches of a view there."""


@register
@dataclass(frozen=True)
class ToMe(Reducer):
    """ToMe (arXiv 2210.09461): in every layer of the tower the r most similar pairs of tokens merge.

    Bipartite soft matching on the layer's keys (mean over heads, cosine), between attention and MLP. As in
    the paper (section 3), tokens are averages weighted by their sizes, and attention is proportional to
    sizes; ports to VLMs dropped both. The CLS token never merges. Every view (anyres tile) merges on its own,
    and newline rows go. A group lives in the row of its first patch, so rows keep their raster order. Towers
    whose features come before their first layer are refused; so are prompts with rows that the model
    interpolates between patches (LLaVA-OneVision: videos, and tiles beyond its budget).

    Where a model joins neighbouring patches at fixed places (InternVL, Gemma 3, Idefics3), rows cannot merge.
    There ``unmerge=true`` gives every patch what its token holds, behind the layer that makes the features,
    as the authors do where a picture is made (arXiv 2303.17604): it spares the tower alone. In towers that
    take patches packed (Qwen-VL) tokens merge inside windows, where there are any, by their keys before they
    turn by place; a merged token turns as the one that it was merged into. The towers of GLM-V and Pixtral
    are refused.

    Attributes:
        r: Tokens that disappear per layer and view (of a tower with windows: per layer and window), at most
            half of those there are; 0 changes nothing. The price list counts 23 layers and, where it knows no
            views, views of 576 patches, as in LLaVA-1.5; what runs is counted anew.
        unmerge: Whether every patch is put back behind the layers that make the features, so that the decoder
            has as many rows as ever.
    """

    name = "tome"
    title = "ToMe"
    paper = "https://arxiv.org/abs/2210.09461"
    compacts = True

    r: int = 16
    unmerge: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if type(self.r) is not int or self.r < 0:
            raise ValueError(f"tome: r is a number of tokens per layer, from 0, got {self.r!r}")
        if type(self.unmerge) is not bool:
            raise ValueError(f"tome: unmerge is true or false, got {self.unmerge!r}")
        if self.unmerge and self.position_policy is not None:
            raise ValueError("tome: with unmerge=true no row leaves, so leave position_policy out")
        if self.of != "found":
            raise ValueError(
                "tome: r counts tokens, so there is no fraction to take of=original of; leave it out"
            )

    @property
    def tower_merge(self) -> TowerMerge | None:
        """What happens inside the tower, which the engine installs; None for nothing."""
        return TowerMerge(self.r, self.unmerge) if self.r else None

    @property
    def needs(self) -> TowerAbility:
        return "merge_patches" if self.unmerge else "merge_rows"

    def stages(self, num_layers: int) -> tuple[Stage, ...]:
        if not self.r or self.unmerge:
            return ()
        return (Stage(0, self, look=Look(tower="made"), compact=self.compact),)

    def kept(self, stage: Stage, found: int, start: int, original: int, views: Views = ()) -> int:
        if not views:
            count = max(round(original / PATCHES), 1)
            views = (-(-original // count),) * count
        left = 0
        for patches in views:
            tokens = patches + 1
            for _ in range(LAYERS):
                tokens -= merged_away(tokens, self.r, protected=1)
            left += tokens - 1
        return min(found, left)

    def max_strength(self, num_layers: int, order: Sequence[int] | None = None) -> int:
        # What a FLOPs ratio is of, the decoder, is not changed where every patch is put back.
        return 0 if self.unmerge else PATCHES // 2

    def at_strength(self, strength: int) -> ToMe:
        return replace(self, r=strength, flops=None)

    def choose(self, stage: Stage, evidence: Evidence) -> Choice:
        vision, losing_BN = seen(self.name, evidence), losing_rows(evidence)
        if vision.into_BN is None or vision.sizes_BN is None:
            # A tower of one patch has nothing to merge.
            return Choice(evidence.alive_BN, counts=evidence.found)
        own_N = torch.arange(losing_BN.shape[1], device=losing_BN.device)
        keep_BN = losing_BN & vision.patch_BN & (vision.into_BN == own_N)
        merged_BN = keep_BN & (vision.sizes_BN > 1)
        kept_BN = keep_BN | (evidence.alive_BN & ~losing_BN)
        counts = count(kept_BN, evidence.image_BN, evidence.found)
        return Choice(kept_BN, counts, _as_they_are(evidence, merged_BN, vision.into_BN, vision.sizes_BN))


def _as_they_are(
    evidence: Evidence, merged_BN: torch.Tensor, into_BN: torch.Tensor, sizes_BN: torch.Tensor
) -> Rewrite:
    """A rewrite that changes no content (the tower has merged it already) but says what it is made of."""
    rows = [row_N.nonzero()[:, 0] for row_N in merged_BN]
    rows_BS = pad_sequence(rows, batch_first=True, padding_value=-1)
    at_BS = rows_BS.clamp(min=0)
    # Patches that are no rows (the padding of anyres tiles) have a share too, so weights may add up to less.
    share_BS1 = torch.where(rows_BS < 0, 0.0, 1 / sizes_BN.gather(1, at_BS).clamp(min=1).float())[..., None]
    sources_BSN = (into_BN[:, None] == at_BS[..., None]) * share_BS1
    hidden_BND = evidence.hidden_BND
    states_BSD = hidden_BND.gather(1, at_BS[..., None].expand(-1, -1, hidden_BND.shape[-1]))
    return Rewrite(rows_BS, states_BSD, sources_BSN)
