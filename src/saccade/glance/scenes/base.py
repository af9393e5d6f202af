"""What every scene has: pixels, facts, and per-patch labels for training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from saccade.glance.draw import CELL, PATCH, PLAIN, DrawnLook
from saccade.glance.vocabulary import CONTENT_INDEX, HEAD_INDEX, IGNORE, LABEL_HEADS

PATCHES_PER_CELL = CELL // PATCH
LINKS = frozenset({"order", "same_color", "same_shape", "source", "target"})
"""Labels that take the rest of the picture: only the last patch of a cell has them."""


@dataclass(frozen=True)
class Scene:
    """A generated image and what is true of it.

    Attributes:
        kind: Scene type, for example ``"objects"``.
        seed: Integer that reproduces the scene.
        pixels: The picture, uint8, height x width x 3.
        labels: Patch labels, int16, patches x heads; `IGNORE` where a patch cannot know.
        facts: The scene type's own dataclass; questions are asked of it, never of the pixels.
    """

    kind: str
    seed: int
    pixels: np.ndarray
    labels: np.ndarray
    facts: Any

    @property
    def image(self) -> Image.Image:
        """The picture as a PIL image."""
        return Image.fromarray(self.pixels)


class PatchLabels:
    """Collects patch labels cell by cell.

    Visual rows are causal in the decoder (raster order), so a cell's last patches know most. Colour is
    asked of the whole cell, the rest only of its bottom row of patches. Where a tower mixes patches
    (`DrawnLook.whole`), all of a cell are asked what stands there.
    """

    def __init__(self, look: DrawnLook = PLAIN) -> None:
        """Start with nothing known anywhere."""
        self.look = look
        self.array = np.full((look.side, look.side, len(LABEL_HEADS)), IGNORE, np.int16)
        self._covered = np.zeros((look.side, look.side), bool)

    def cell(self, row: int, column: int, content: str | None = None, **heads: int) -> None:
        """Label the 2 x 2 patches of the plan whose top left one is (row, column)."""
        scale, height = self.look.scale, PATCHES_PER_CELL
        top, left = row * scale, column * scale
        bottom, right = top + height * scale, left + height * scale
        self._covered[top:bottom, left:right] = True
        cell = self.array[top:bottom, left:right]
        known = cell if self.look.whole else cell[-scale:]
        if content is not None:
            known[..., HEAD_INDEX["content"]] = CONTENT_INDEX[content]
            known[..., HEAD_INDEX["row"]] = row // height + 1
            known[..., HEAD_INDEX["column"]] = column // height + 1
        for head, value in heads.items():
            if head == "color":
                cell[..., HEAD_INDEX[head]] = value
            elif head == "size" or (self.look.whole and head not in LINKS):
                known[..., HEAD_INDEX[head]] = value
            else:
                # Counts and links need everything before them: only the very last patch has seen it.
                cell[-scale:, -scale:, HEAD_INDEX[head]] = value

    def finish(self, rng: np.random.Generator) -> np.ndarray:
        """Mark a sample of the empty patches as background and return patches x heads."""
        empty = ~self._covered & (rng.random(self._covered.shape) < 0.12)
        self.array[empty, HEAD_INDEX["content"]] = 0
        self.array[empty, HEAD_INDEX["color"]] = 0
        return self.array.reshape(self.look.side**2, -1)
