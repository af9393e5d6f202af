"""FasterVLM: the patches that the vision tower's CLS row attends to are kept."""

from __future__ import annotations

from dataclasses import dataclass

from saccade.methods.reducer import KeepReducer
from saccade.methods.registry import register
from saccade.methods.survivors import settled
from saccade.methods.towerwise import by_view, seen
from saccade.stages import Choice, Evidence, Look, Stage


@register
@dataclass(frozen=True)
class FasterVLM(KeepReducer):
    """FasterVLM (first version of arXiv 2412.01818): patches with the most attention from CLS are kept.

    Scores are those of the tower's layer that makes the decoder's features, mean over heads; where the tower
    has no CLS row, the attention that a patch receives from its view. An image's budget is split over its
    views (anyres tiles) in proportion to their patches; newline rows go, as in the official code.
    """

    name = "fastervlm"
    title = "FasterVLM"
    paper = "https://arxiv.org/abs/2412.01818v1"
    compacts = True
    usual = 64

    def stages(self, num_layers: int) -> tuple[Stage, ...]:
        return (Stage(0, self, look=Look(tower="made"), compact=self.compact),)

    def choose(self, stage: Stage, evidence: Evidence) -> Choice:
        vision = seen(self.name, evidence)
        groups = by_view(evidence, vision)
        kept_TP = groups.top(groups.take(vision.attention_BN), groups.keep)
        keep_BN = groups.put(kept_TP, evidence.alive_BN)
        return settled(stage, evidence, keep_BN, groups.totals(evidence, groups.keep))
