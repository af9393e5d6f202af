"""What a stock decoder loop adds to rows between its layers (DeepStack, arXiv 2406.04334).

Shape letters: B batch, N rows, R rows that get something, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, eq=False)
class Added:
    """What is added to some rows after the first layers.

    Attributes:
        keyword: Argument of the decoder that holds the features.
        rows_BN: Rows that get something.
        features: What they get (R, D), sample after sample in the order of the rows: one entry for every
            layer, from the first on, that is followed by an addition.
    """

    keyword: str
    rows_BN: torch.Tensor
    features: Sequence[torch.Tensor]

    def after(self, number: int, hidden_BND: torch.Tensor) -> torch.Tensor:
        """What the loop makes of a layer's output."""
        if number >= len(self.features):
            return hidden_BND
        rows_BN = self.rows_BN.to(hidden_BND.device)
        changed_BND = hidden_BND.clone()
        changed_BND[rows_BN] = hidden_BND[rows_BN] + self.features[number].to(hidden_BND)
        return changed_BND
