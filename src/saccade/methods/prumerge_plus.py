"""PruMerge+: PruMerge with evenly spaced patches beside the outliers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from saccade.methods.prumerge import PruMerge, by_attention, outliers
from saccade.methods.registry import register


@register
@dataclass(frozen=True)
class PruMergePlus(PruMerge):
    """PruMerge+ (arXiv 2403.15388): PruMerge plus evenly spaced patches, about three to an outlier.

    Everything else is PruMerge's. The stride is a third of the inverse share of outliers, at least 1 (the
    official code fails where more than a third are outliers); as there, the last patch is never on the grid.
    With ``keep`` half of the patches, rounded up, are chosen by attention, and the others evenly from what is
    left (the official code could choose a patch twice).

    Attributes:
        keep: Rows that are kept, extra row included; by default the data decide (about 25 % in the paper).
            Patches of a fraction up to 1 are rounded down, and the extra row comes on top.
    """

    name = "prumerge_plus"
    version = 2
    title = "PruMerge+"
    paper = "https://arxiv.org/abs/2403.15388"

    nominal = 0.25
    extra = 0

    def pick(self, attention_P: np.ndarray, keep: int | None) -> list[int]:
        patches, order = len(attention_P), by_attention(attention_P)
        if keep is None:
            first = order[: outliers(attention_P)]
            stride = max(1, patches // len(first) // 3)
            return first + [p for p in range(0, patches - 1, stride) if p not in first]
        spaced = keep // 2
        first = order[: keep - spaced]
        rest = [p for p in range(patches) if p not in first]
        return first + [rest[j * len(rest) // spaced] for j in range(spaced)]
