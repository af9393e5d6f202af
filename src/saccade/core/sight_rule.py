"""What a family states of a kind of layer: who sees whom. Sizes of models hold it, so it imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from saccade.core.layout import Layout
    from saccade.core.sight import Sight


@dataclass(frozen=True)
class SightRule:
    """What a kind of layer lets its rows see; causal unless it says more.

    Attributes:
        window: How many rows back a row sees, itself among them; None where it sees all before it.
        blocks: Rows that see each other both ways: those of an unbroken run of visual rows, or of the whole
            prompt.
        bounded: Whether the window bounds what rows of a block see of each other.
    """

    window: int | None = None
    blocks: Literal["none", "images", "prompt"] = "none"
    bounded: bool = True

    def sight(self, layout: Layout) -> Sight:
        """What it comes to for a prompt, whose model is told nothing else of its blocks."""
        from saccade.core.sight import Sight, runs_of

        if self.blocks == "prompt":
            return Sight(self.window, layout.real_BN.long() - 1, self.bounded)
        if self.blocks == "images" and layout.has_visual:
            return Sight(self.window, runs_of(layout.visual_BN), self.bounded)
        return Sight(self.window)
