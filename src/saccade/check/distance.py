"""How far two forwards are apart, and how far they may be.

Rows are compared one by one, so a single wrong row shows however many are right. How far rounding alone takes
a model is measured on the stock model itself, on the machine at hand: two of its attention implementations
(and where there is one, its own float32 copy) compute the same thing, and are apart by as much.

Shape letters: M rows, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

EXACT = 1e-4
"""What float32 may be off, however quiet the machine."""
MOST = 1e-3
"""What float32 may be off, however noisy the machine."""
TYPICAL, WORST = 3.0, 4.0
"""How many times further than rounding takes the stock model the typical and the worst row may be."""


@dataclass(frozen=True)
class Distance:
    """How far rows are apart, each relative to its own length.

    Attributes:
        typical: Root mean square over rows.
        worst: Of the row that is furthest.
    """

    typical: float = 0.0
    worst: float = 0.0

    @classmethod
    def of(cls, ours_MD: torch.Tensor, theirs_MD: torch.Tensor) -> Distance:
        """Between rows and what they should be; infinite where shapes differ or a number is not finite."""
        if ours_MD.shape != theirs_MD.shape:
            return cls(float("inf"), float("inf"))
        if not len(ours_MD):
            return cls()
        # One pass in float32 is enough: differences of near numbers are exact.
        ours, theirs = ours_MD.float(), theirs_MD.to(ours_MD.device).float()
        far_M = (ours - theirs).norm(dim=-1) / theirs.norm(dim=-1).clamp(min=1e-30)
        far_M = far_M.nan_to_num(float("inf"), float("inf")).double()
        return cls(float(far_M.square().mean().sqrt()), float(far_M.max()))

    @classmethod
    def of_logits(cls, ours_MV: torch.Tensor, theirs_MV: torch.Tensor) -> Distance:
        """Between logits, whose common height says nothing."""
        ours, theirs = ours_MV.float(), theirs_MV.float()
        return cls.of(ours - ours.mean(-1, keepdim=True), theirs - theirs.mean(-1, keepdim=True))

    @classmethod
    def worst_of(cls, several: Sequence[Distance]) -> Distance:
        """The largest of several, part by part."""
        return cls(
            max((d.typical for d in several), default=0.0), max((d.worst for d in several), default=0.0)
        )

    def within(self, allowed: Distance) -> bool:
        """Whether it is no further than allowed."""
        return self.typical <= allowed.typical and self.worst <= allowed.worst


def allowed(noise: Distance, dtype: torch.dtype) -> Distance:
    """How far a right path may be from the reference.

    Args:
        noise: How far rounding takes the stock model.
        dtype: What the model computes in.
    """
    found = Distance(TYPICAL * noise.typical, WORST * noise.worst)
    if dtype not in (torch.float32, torch.float64):
        # Two computations that happen to agree in every bit say nothing about a third.
        least = torch.finfo(dtype).eps
        return Distance(max(found.typical, least), max(found.worst, 2 * least))
    return Distance(*(min(max(part, EXACT), MOST) for part in (found.typical, found.worst)))
