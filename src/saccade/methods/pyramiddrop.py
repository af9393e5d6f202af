"""PyramidDrop: the visual rows grow fewer stage by stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from saccade.core.layout import Views
from saccade.core.select import top
from saccade.core.stages import Choice, Evidence, Look, Stage
from saccade.methods.reducer import rows_of
from saccade.methods.registry import register
from saccade.methods.staged import StagedReducer


@register
@dataclass(frozen=True)
class PyramidDrop(StagedReducer):
    """PyramidDrop (arXiv 2410.17247): before three layers, part of the visual rows is dropped.

    Scores are the attention of the last prompt row in the layer that runs next, mean over heads. Positions
    close up over what was dropped, as in the authors' code.

    Attributes:
        keep: What stays at each stage of what was there: stage i, from 0, leaves ``keep^(i+1)`` of the rows
            that the first stage found, rounded down.
        layers: First layer after each stage; by default 8, 16, 24 of 32. The authors use these at 40 layers
            too: ``layers=8/16/24``.
    """

    name = "pyramiddrop"
    title = "PyramidDrop"
    paper = "https://arxiv.org/abs/2410.17247"
    compacts = True
    published = (8, 16, 24)
    look = Look(ask="last", moment="before")
    dial = "keep"

    keep: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.keep, bool) or not isinstance(self.keep, int | float) or not 0 <= self.keep <= 1:
            raise ValueError(
                f"pyramiddrop: keep is the fraction that each stage leaves, from 0 to 1, got {self.keep!r}"
            )
        object.__setattr__(self, "keep", float(self.keep))

    def kept(self, stage: Stage, found: int, start: int, original: int, views: Views = ()) -> int:
        whole = original if self.of == "original" else start
        return min(found, rows_of(self.keep ** (stage.number + 1), whole))

    def choose(self, stage: Stage, evidence: Evidence) -> Choice:
        weights: Any = evidence.weights_BHRN
        scores_BN = weights.mean(1)[:, 0]
        return Choice(top(scores_BN, evidence.alive_BN, evidence.image_BN, evidence.keep))
