"""PixelPrune: parts of a picture that their neighbours predict leave before the vision tower."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from saccade.core.layout import Views
from saccade.core.predicted import TowerPrune
from saccade.core.select import count
from saccade.core.stages import Choice, Evidence, Look, Stage
from saccade.core.tower import TowerAbility
from saccade.methods.reducer import Reducer, rows_of
from saccade.methods.registry import register


@register
@dataclass(frozen=True)
class PixelPrune(Reducer):
    """PixelPrune (arXiv 2604.00886): predictive coding of pixels says which patches hold nothing new.

    A cell (the patches that become one row) that equals the cell on its left leaves; where a vertical edge
    passes between the left and the upper neighbour, as the predictor of JPEG-LS finds it, the upper cell
    predicts in place of the left one. What leaves passes neither the tower nor the decoder, and what stays
    keeps its place in both, as in the authors' code (which, for Qwen3-VL and Qwen3.5, has no windows; here
    the windows of Qwen2.5-VL hold the patches that are left of them). Patches are embedded before they leave.
    How many stay the picture decides: documents and screens lose most, photographs nearly nothing. For towers
    that take packed patches; others are refused.

    Attributes:
        threshold: Largest difference of a pixel's value that still counts as none, in the numbers that the
            tower is given; 0 leaves out exact repetitions alone. (The authors count from 0 to 1; where the
            processor normalises by 0.5, as for Qwen3-VL, theirs is half of this.)
        expected: Share of the rows that prices count with; what runs is counted anew, row by row. 1: nothing
            leaves.
    """

    name = "pixelprune"
    title = "PixelPrune"
    paper = "https://arxiv.org/abs/2604.00886"

    threshold: float = 0.0
    expected: float = 0.5

    @property
    def needs(self) -> TowerAbility:
        return "leave_patches"

    def __post_init__(self) -> None:
        super().__post_init__()
        threshold, expected = self.threshold, self.expected
        if isinstance(threshold, bool) or not isinstance(threshold, int | float) or threshold < 0:
            raise ValueError(f"pixelprune: threshold is a difference of pixels, from 0, got {threshold!r}")
        if isinstance(expected, bool) or not isinstance(expected, int | float) or not 0 < expected <= 1:
            raise ValueError(f"pixelprune: expected is a share above 0 and at most 1, got {expected!r}")
        if self.of != "found":
            raise ValueError("pixelprune: the picture decides how many rows stay; leave of=original out")

    @property
    def tower_prune(self) -> TowerPrune | None:
        return TowerPrune(float(self.threshold)) if self.expected < 1 else None

    @property
    def tower_part(self) -> float:
        return float(self.expected)

    def stages(self, num_layers: int) -> tuple[Stage, ...]:
        if self.tower_prune is None:
            return ()
        return (Stage(0, self, look=Look(pruned=True), compact=self.compact),)

    def kept(self, stage: Stage, found: int, start: int, original: int, views: Views = ()) -> int:
        # Of one row nothing can leave; of more something may, so the stage is not passed over.
        return found if found < 2 else min(found - 1, rows_of(self.tower_part, found))

    def max_strength(self, num_layers: int, order: Sequence[int] | None = None) -> int:
        return 0

    def at_strength(self, strength: int) -> PixelPrune:
        return replace(self, expected=1.0, flops=None) if strength == 0 else replace(self, flops=None)

    def choose(self, stage: Stage, evidence: Evidence) -> Choice:
        if evidence.left_BN is None:
            raise ValueError(
                "pixelprune chooses by pixels, and there are none here (images given as embeddings): give "
                "pixel_values, or use divprune, uniform"
            )
        keep_BN = evidence.alive_BN & evidence.left_BN
        return Choice(keep_BN, count(keep_BN, evidence.image_BN, evidence.found))
