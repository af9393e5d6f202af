"""Random rows: the baseline that every scored method has to beat."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from saccade.core.stages import Evidence
from saccade.methods.reducer import DecoderReducer
from saccade.methods.registry import register


@register
@dataclass(frozen=True)
class Random(DecoderReducer):
    """Random visual rows are kept (the baseline of FastV, arXiv 2403.06764, and most after it).

    Attributes:
        layer: First layer that runs with the rest; 0 drops before the decoder.
        seed: Which rows. A row's luck depends on its place among its image's rows, not on the batch.
    """

    name = "random"
    title = "Random rows"
    earliest = 0

    layer: int = 0
    seed: int = 0

    def scores(self, evidence: Evidence) -> torch.Tensor:
        layout = evidence.layout
        # numpy's stream does not depend on how much is drawn, so a batch equals its singles.
        luck = torch.from_numpy(np.random.default_rng(self.seed).random(layout.rows))
        return luck[layout.place_BN.clamp(min=0)].to(evidence.image_BN.device, non_blocking=True)
