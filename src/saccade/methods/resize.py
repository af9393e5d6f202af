"""Lower input resolution: the plain baseline that every reduction of visual rows has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt

from saccade.methods.base import STRENGTHS, Method
from saccade.methods.registry import register


@register
@dataclass(frozen=True)
class Resize(Method):
    """A lower input resolution (LLaVA-1.5, arXiv 2310.03744, section 3.2, raised it; this goes back).

    It works at the processor, so the prompt itself gets shorter: ``saccade.models.inputs(..., plan=plan)``
    and ``saccade.models.shrink`` apply it. Attached to a model, the plan lets a tower of fixed size take
    smaller pictures (its position embeddings are interpolated). LLaVA-NeXT, LLaVA-OneVision, InternVL and the
    Qwen-VL models get a smaller image and make tiles or patches of it as ever: rows of the first three fall
    in steps, with the tiles that they choose, and Qwen-VL stays above its smallest number of pixels. An image
    of a single view (InternVL's smallest; LLaVA-OneVision's beside other images) keeps its rows.

    Attributes:
        scale: Of each side, above 0 and at most 1; 1 changes nothing.
    """

    name = "resize"
    title = "Lower resolution"
    saves = ("prefill", "kv", "decode")
    shortens = True
    dial = "scale"

    scale: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        scale = self.scale
        if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 < scale <= 1:
            raise ValueError(f"resize: scale is a share of each side, above 0 and at most 1, got {scale!r}")
        object.__setattr__(self, "scale", float(scale))

    def visual_rows(self, rows: int) -> int:
        """Rows of an image that has so many at full resolution; a square stays a square."""
        if rows < 1:
            return rows
        side = isqrt(rows)
        if side * side == rows:
            return max(round(side * self.scale), 1) ** 2
        return max(round(rows * self.scale**2), 1)

    def max_strength(self, num_layers: int, order: Sequence[int] | None = None) -> int:
        return STRENGTHS - 1
