"""FasterVLM: the patches that the vision tower's CLS row attends to are kept."""

from __future__ import annotations

from dataclasses import dataclass

from saccade.core.stages import Choice, Evidence, Look, Stage
from saccade.methods.registry import register
from saccade.methods.survivors import kept_as_they_are
from saccade.methods.towerwise import seen
from saccade.methods.viewwise import KeepViewReducer


@register
@dataclass(frozen=True)
class FasterVLM(KeepViewReducer):
    """FasterVLM (first version of arXiv 2412.01818): patches with the most attention from CLS are kept.

    Scores are those of the tower's layer that makes the decoder's features, mean over heads; where the tower
    has no CLS row, the attention that a patch receives from its view. Newline rows go, as in the official
    code. Where positions are kept, patches of a tile's padding stand in for rows that are dropped.

    Attributes:
        keep: What stays of every view (``share=image``: of every image): a fraction up to 1, rounded to the
            nearest number of rows (the authors give numbers: of 576 rows 58 for 10 % and 29 for 5 %), or a
            number of rows.
    """

    name = "fastervlm"
    version = 2
    title = "FasterVLM"
    paper = "https://arxiv.org/abs/2412.01818v1"
    compacts = True
    usual = 64
    rounds = "nearest"

    def stages(self, num_layers: int) -> tuple[Stage, ...]:
        unseen = self.share != "image"
        return (Stage(0, self, look=Look(tower="made"), compact=self.compact, unseen=unseen),)

    def choose(self, stage: Stage, evidence: Evidence) -> Choice:
        vision = seen(self.name, evidence)
        groups = self.groups(evidence, vision)
        kept_TP = groups.top(groups.of(vision, lambda v: v.attention_BN), groups.keep)
        return kept_as_they_are(stage, evidence, vision, groups, kept_TP)
