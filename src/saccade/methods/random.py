"""Random rows: the baseline that every scored method has to beat."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from saccade.core.select import top
from saccade.core.stages import Choice, Evidence, Stage
from saccade.methods.reducer import KeepReducer
from saccade.methods.registry import register


@register
@dataclass(frozen=True)
class Random(KeepReducer):
    """Random visual rows are kept (the baseline of FastV, arXiv 2403.06764, and most after it).

    Attributes:
        layer: First layer that runs with the rest; 0 drops before the decoder.
        seed: Which rows. A row's luck depends on its place among its image's rows, not on the batch.
    """

    name = "random"
    title = "Random rows"
    paper = "https://arxiv.org/abs/2403.06764"

    layer: int = 0
    seed: int = 0

    def stages(self, num_layers: int) -> tuple[Stage, ...]:
        self.check_layer(self.layer, num_layers, lowest=0)
        return (Stage(self.layer, self, compact=self.compact),)

    def choose(self, stage: Stage, evidence: Evidence) -> Choice:
        layout, image_BN = evidence.layout, evidence.image_BN
        # numpy's stream does not depend on how much is drawn, so a batch equals its singles.
        luck = torch.from_numpy(np.random.default_rng(self.seed).random(layout.rows))
        scores_BN = luck[layout.place_BN.clamp(min=0)].to(image_BN.device, non_blocking=True)
        return Choice(top(scores_BN, evidence.alive_BN, image_BN, evidence.keep))
