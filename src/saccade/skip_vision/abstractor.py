"""What stands in the projector's place: patches become retained, skipped and summary rows of the decoder.

Shape letters: B images, P patches, C tower width, R retained rows, S skipped rows, D decoder width.
"""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import nn

from saccade.core.merge import Merged, mean_merge, token_merge
from saccade.core.select import top
from saccade.skip_vision.config import SkipVisionConfig
from saccade.skip_vision.summary import Scorer

by_hand = torch.compiler.disable(
    reason="a Skip-Vision model looks into the vision tower and needs graph breaks: compile without fullgraph"
)
"""For what writes and reads a glimpse: what a thread keeps is not part of a compiled graph."""


class Glimpse(threading.local):
    """Attention that patches get in the vision tower (B, P), on its way from the tower to the abstractor."""

    attention_BP: torch.Tensor | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Glimpse:
        # PEFT copies the module it trains whole; the tower goes on writing here.
        return self


class Abstractor(nn.Module):
    """Makes the rows of the decoder of the tower's features, as ``SkipVisionConfig`` says.

    Attributes:
        config: The layout and its switches.
        project: From features to embeddings: the model's own projector, or a Chain-of-Sight resampler.
        scorer: Scores rows for their summaries; None without summaries.
        registers: Learned rows (Victor); None without.
        glimpse: Where the tower's attention is found, for the layout ``llava``.
        noted: Where an analysis has rows put down before a token merge, and what it makes of them; else None.
    """

    noted: list[tuple[torch.Tensor, Merged]] | None = None

    def __init__(self, config: SkipVisionConfig, project: nn.Module, width: int) -> None:
        """Creates it for a decoder of this width."""
        super().__init__()
        self.config, self.project, self.glimpse = config, project, Glimpse()
        self.scorer = Scorer(width, config.learned_summary) if config.summaries else None
        self.registers = (
            nn.Parameter(torch.randn(config.registers, width) * 0.02) if config.registers else None
        )

    def forward(self, features_BPC: torch.Tensor, whole: int | None = None) -> torch.Tensor:
        """Rows of the decoder (B, N, D); for ``llava-hd`` embeddings of patches, which ``pack`` takes up.

        Args:
            features_BPC: Features of the tower; from ``pack`` embeddings (1, P, D) of one image.
            whole: From ``pack``, how many of the embeddings are of the whole picture.
        """
        if whole is not None:
            return self.assemble(features_BPC[:, :whole], features_BPC[:, whole:])
        if self.config.layout == "llava-hd":
            return self.project(features_BPC)
        if self.config.layout == "llava":
            features_BPC = self._ranked(features_BPC)
        rows_BND = self.project(features_BPC)
        first, _ = self.config.split(rows_BND.shape[1])
        return self.assemble(rows_BND[:, :first], rows_BND[:, first:])

    def pack(self, rows_ND: torch.Tensor, whole: int) -> torch.Tensor:
        """Rows of one image cut into tiles.

        Args:
            rows_ND: Embeddings: of the whole picture, then of the tiles.
            whole: How many are of the whole picture.
        """
        # Through the call, around which offloaded weights (registers) are brought in.
        return self(rows_ND[None], whole)[0]

    def assemble(self, retained_BRD: torch.Tensor, skipped_BSD: torch.Tensor) -> torch.Tensor:
        """Retained rows, their summary, skipped rows (merged), their summary, registers."""
        config, skipped = self.config, skipped_BSD.shape[1]
        if config.merged is not None and skipped > config.merged and config.merge_order != "kept":
            if config.merge == "mean":
                skipped_BSD = mean_merge(skipped_BSD, config.merged).rows_BKD
            else:
                merged = token_merge(skipped_BSD, config.merged, config.merge_order)
                if self.noted is not None:
                    self.noted.append((skipped_BSD, merged))
                skipped_BSD = merged.rows_BKD
        parts = [retained_BRD]
        if config.former:
            parts.append(self._summary(retained_BRD[:, self._former_from(retained_BRD.shape[1]) :]))
        parts.append(skipped_BSD)
        if config.latter:
            # The prompt has a place for it also where an image has no skipped rows.
            parts.append(self._summary(skipped_BSD if skipped else retained_BRD))
        if self.registers is not None:
            parts.append(self.registers.to(retained_BRD.dtype).expand(len(retained_BRD), -1, -1))
        return torch.cat(parts, dim=1)

    def identity(self) -> dict[str, Any]:
        """What tells a model with this layout from others, for fingerprints."""
        return {"skip_vision": self.config.identity()}

    def length(self, rows: int) -> int:
        """Rows of the decoder that an image becomes of which the stock projector makes so many."""
        return self.config.length(self.config.projected(rows))

    def _former_from(self, retained: int) -> int:
        """Where the former summary's rows begin: behind the coarsest scale, if more is retained."""
        first = self.config.coarse if self.config.former_source == "usual" else 0
        return first if first < retained else 0

    def _summary(self, rows_BND: torch.Tensor) -> torch.Tensor:
        assert self.scorer is not None
        return self.scorer(rows_BND)

    @by_hand
    def _ranked(self, features_BPC: torch.Tensor) -> torch.Tensor:
        """Features with the retained patches first; both groups keep the order of the picture."""
        attention_BP, self.glimpse.attention_BP = self.glimpse.attention_BP, None
        if attention_BP is None:
            raise ValueError(
                "the abstractor ranks patches by the attention of the vision tower, which was not seen just "
                "before it: call the model (or its get_image_features) rather than the projector alone, "
                "without a plan that replaces the tower's attention (tome)"
            )
        if attention_BP.shape != features_BPC.shape[:2]:
            raise ValueError(
                f"the abstractor ranks {attention_BP.shape[1]} patches of {attention_BP.shape[0]} views, but "
                f"gets features of {features_BPC.shape[1]} patches of {features_BPC.shape[0]}: a plan that "
                "merges inside the vision tower (tome) does not go with the layout llava"
            )
        first, _ = self.config.split(features_BPC.shape[1])
        everything = torch.ones_like(attention_BP, dtype=torch.bool)
        keep_BP = top(attention_BP, everything, everything.long() - 1, ((first,),) * len(attention_BP))
        order_BP = torch.argsort(~keep_BP, dim=1, stable=True)
        return features_BPC.gather(1, order_BP[..., None].expand_as(features_BPC))
