"""FastV: what the last prompt row does not attend to is dropped early."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from saccade.core.select import top
from saccade.core.stages import Choice, Evidence, Look, Stage
from saccade.methods.reducer import KeepReducer
from saccade.methods.registry import register


@register
@dataclass(frozen=True)
class FastV(KeepReducer):
    """FastV (arXiv 2403.06764): before layer K the visual rows with the least attention are dropped.

    Scores are the attention of the last prompt row in layer K-1, mean over heads. Rows are chosen once, in
    prefill (the paper's cacheless code chose anew for every token), and keep their positions.

    Attributes:
        keep: What stays of every image: a fraction up to 1, rounded to the nearest number of rows, and of two
            to the even one (the authors give what is dropped, r, and keep ``round(rows * (1 - r))``), or a
            number of rows.
        layer: K, the first layer that runs with the rest; 3 as in the authors' scripts.
    """

    name = "fastv"
    version = 2
    title = "FastV"
    paper = "https://arxiv.org/abs/2403.06764"

    rounds = "nearest"

    layer: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if type(self.layer) is not int or self.layer < 1:
            raise ValueError(f"fastv: layer is a number from 1 (it needs the layer before), got {self.layer}")

    def stages(self, num_layers: int) -> tuple[Stage, ...]:
        self.check_layer(self.layer, num_layers)
        return (Stage(self.layer, self, look=Look(ask="last"), compact=self.compact),)

    def choose(self, stage: Stage, evidence: Evidence) -> Choice:
        weights: Any = evidence.weights_BHRN
        scores_BN = weights.mean(1)[:, 0]
        return Choice(top(scores_BN, evidence.alive_BN, evidence.image_BN, evidence.keep))
