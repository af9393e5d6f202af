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
        blocks: Rows that see each other both ways: those of an unbroken run of visual rows, all visual rows
            of a prompt, or the whole prompt.
        bounded: Whether the window bounds what rows of a block see of each other.
        chunk: Rows of a part, counted from where a sample begins; a row sees those of its part alone. None
            where there are no parts.
    """

    window: int | None = None
    blocks: Literal["none", "images", "visual", "prompt"] = "none"
    bounded: bool = True
    chunk: int | None = None

    @property
    def span(self) -> int | None:
        """How far back a row sees at most, itself counted; None where it sees all before it."""
        return self.window if self.chunk is None else self.chunk

    def sight(self, layout: Layout) -> Sight:
        """What it comes to for a prompt, by the blocks its model was told where the layout has them."""
        from saccade.core.sight import Sight, begins, runs_of

        if self.blocks != "none" and layout.block_BN is not None:
            return Sight(self.window, layout.block_BN, self.bounded)
        if self.blocks == "prompt":
            return Sight(self.window, layout.real_BN.long() - 1, self.bounded)
        if self.blocks == "images" and layout.has_visual:
            return Sight(self.window, runs_of(layout.visual_BN), self.bounded)
        if self.blocks == "visual" and layout.has_visual:
            return Sight(self.window, layout.visual_BN.long() - 1, self.bounded)
        return Sight(
            self.window, chunk=self.chunk, begins_B1=None if self.chunk is None else begins(layout.real_BN)
        )
