"""What happened to the visual rows of a forward: which stayed, and which patches each is made of.

Shape letters: B batch, N rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from saccade.core.layout import Layout
from saccade.core.precision import wide
from saccade.core.program import narrowed
from saccade.core.route import Route
from saccade.core.stages import Grid, Rewrite, Scoring, Stage


@dataclass(frozen=True, eq=False)
class Cut:
    """One decision that was taken, on the host.

    Attributes:
        before: First layer that runs with what is left.
        method: Spec of the method that decided.
        compact: Whether positions closed up over what it dropped.
        alive_BN: Visual rows that are left.
        rows_BN: Rows whose contents were rewritten.
        sources_BNN: What each rewritten row (second axis) was made of (last axis); None where nothing was.
    """

    before: int
    method: str
    compact: bool
    alive_BN: torch.Tensor
    rows_BN: torch.Tensor
    sources_BNN: torch.Tensor | None


class Trace:
    """What one forward did, on the host.

    Attributes:
        route: The route that really ran.
        grid: Where the visual rows lie in the picture, or None.
        cuts: Decisions in the order they were taken.
    """

    def __init__(self, route: Route, grid: Grid | None = None) -> None:
        """Begins with what the static methods say."""
        self.route, self.grid = route, grid
        self.cuts: list[Cut] = []

    @property
    def layout(self) -> Layout:
        """Where the visual rows are."""
        return self.route.layout

    def cut(
        self,
        stage: Stage,
        left_BN: torch.Tensor,
        rewrite: Rewrite | None,
        compact: bool,
        scoring: Scoring | None,
    ) -> None:
        """Notes a decision."""
        alive_BN, layout = left_BN.cpu(), self.layout
        rows_BN = torch.zeros_like(alive_BN)
        sources = None
        if rewrite is not None:
            rows_BS, weights = rewrite.rows_BS.cpu(), wide(rewrite.sources_BSN.detach()).cpu()
            sources = weights.new_zeros(layout.batch, layout.rows + 1, layout.rows)
            index = torch.where(rows_BS < 0, layout.rows, rows_BS)
            sources.scatter_(1, index[..., None].expand_as(weights), weights)
            sources = sources[:, :-1]
            spare = torch.zeros(layout.batch, layout.rows + 1, dtype=torch.bool)
            rows_BN = spare.scatter_(1, index, True)[:, :-1]
        self.cuts.append(Cut(stage.before, str(stage.by), compact, alive_BN, rows_BN, sources))
        route = narrowed(self.route, stage.before, layout.text_BN | alive_BN)
        self.route = route if scoring is None else replace(route, scorings=(*route.scorings, scoring))

    def alive(self, layer: int) -> torch.Tensor:
        """Visual rows (B, N) that are alive in a layer."""
        return self.route.layers[layer].alive_BN & self.layout.visual_BN

    def kept(self, layer: int) -> list[list[int]]:
        """Numbers of the visual rows of every sample that are alive in a layer."""
        return [rows.nonzero()[:, 0].tolist() for rows in self.alive(layer)]

    def sources(self, layer: int) -> torch.Tensor:
        """What each visual row that is alive in a layer is made of.

        Returns:
            (B, N, N): weight of the original row (last axis) in the row (second axis); zeros at rows that are
            not alive. A row that was never merged is itself with weight 1.
        """
        kinds = {cut.sources_BNN.dtype for cut in self.cuts if cut.sources_BNN is not None}
        dtype = torch.float64 if torch.float64 in kinds else torch.float32
        made = torch.diag_embed(self.layout.visual_BN.to(dtype))
        for cut in self.cuts:
            if cut.before > layer:
                break
            if cut.sources_BNN is not None:
                made = torch.where(cut.rows_BN[..., None], cut.sources_BNN.to(dtype) @ made, made)
            made = made * cut.alive_BN[..., None]
        return made * self.alive(layer)[..., None]
