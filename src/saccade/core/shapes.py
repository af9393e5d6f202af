"""Sizes of a decoder, all that a closed-form cost needs, and the shapes of the papers' models (pure)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import ceil, isqrt
from typing import Any

from saccade.core.tower import TowerShape


@dataclass(frozen=True)
class ModelShape:
    """Sizes of the language decoder of a VLM.

    Attributes:
        name: What to call it in reports.
        layers: Decoder layers (L).
        hidden: Width of the residual stream (d).
        heads: Query heads (H).
        kv_heads: Key/value heads.
        head_dim: Width of one head (d_h).
        ffn: Inner width of the gated FFN (m).
        vocab: Vocabulary size.
        visual: Visual tokens of a typical image, the default of ``cost`` and ``bench``.
        view: Patches of a view, where the model cuts images into views; None where it does not.
        tower: Sizes of its vision tower and projector; None where they are not known.
    """

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    visual: int
    view: int | None = None
    tower: TowerShape | None = None

    def views(self, visual: int, count: int | None = None) -> tuple[int, ...]:
        """Patches of every view of an image.

        Args:
            visual: Its visual rows.
            count: How many views it is cut into; if omitted as many as its rows fill, newline rows among
                them. Unpadding leaves fewer rows, and only the picture's sides tell how many views it has.
        """
        if self.view is None or not visual:
            return (visual,) if visual else ()
        if count is None:
            count = max(ceil(visual / (self.view + isqrt(self.view))), 1)
        return (self.view if count > 1 else min(visual, self.view),) * count

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary for JSON."""
        return asdict(self)

    @property
    def query_width(self) -> int:
        """Total width of the queries (H * d_h)."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Total width of the keys, or of the values (dk)."""
        return self.kv_heads * self.head_dim


def _clip(decoder: int, **more: Any) -> TowerShape:
    """CLIP ViT-L/14 at 336 pixels, as LLaVA takes it: features of the last layer but one."""
    return TowerShape(
        24, 1024, 4096, 16, 588, ((1024, decoder), (decoder, decoder)), 24, cls=1, made=23, reads=True, **more
    )


def _joined(width: int, rows: int, decoder: int) -> tuple[tuple[int, int], ...]:
    """A merger of two by two patches."""
    return ((4 * width, 4 * width), (4 * width, decoder)) * rows


_SIGLIP = TowerShape(26, 1152, 4304, 16, 588, ((1152, 3584), (3584, 3584)), 27, made=26)
_QWEN2 = TowerShape(32, 1280, 5120, 16, 1176, _joined(1280, 1, 3584), merge=4, fused=True)
_QWEN25 = TowerShape(
    32, 1280, 3420, 16, 1176, _joined(1280, 1, 3584),
    merge=4, gated=True, window=4, full=(7, 15, 23, 31), fused=True,
)  # fmt: skip
_QWEN3 = TowerShape(27, 1152, 4304, 16, 1536, _joined(1152, 4, 4096), merge=4, fused=True)
_INTERN = TowerShape(24, 1024, 4096, 16, 588, ((4096, 3584), (3584, 3584)), 16, cls=1, merge=4, made=24)

SHAPES: dict[str, ModelShape] = {
    s.name: s
    for s in (
        ModelShape("llava-1.5-7b", 32, 4096, 32, 32, 128, 11008, 32064, 576, tower=_clip(4096)),
        ModelShape("llava-1.5-13b", 40, 5120, 40, 40, 128, 13824, 32064, 576, tower=_clip(5120)),
        ModelShape("llava-llama3-8b", 32, 4096, 32, 8, 128, 14336, 128256, 576, tower=_clip(4096)),
        ModelShape("llava-next-7b", 32, 4096, 32, 32, 128, 11008, 32064, 2880, 576, tower=_clip(4096)),
        ModelShape("llava-next-13b", 40, 5120, 40, 40, 128, 13824, 32064, 2880, 576, tower=_clip(5120)),
        ModelShape("qwen2-vl-7b", 28, 3584, 28, 4, 128, 18944, 152064, 1280, tower=_QWEN2),
        ModelShape("qwen2.5-vl-7b", 28, 3584, 28, 4, 128, 18944, 152064, 1280, tower=_QWEN25),
        ModelShape("qwen3-vl-8b", 36, 4096, 32, 8, 128, 12288, 151936, 1280, tower=_QWEN3),
        ModelShape("llava-onevision-7b", 28, 3584, 28, 4, 128, 18944, 152128, 3645, 729, tower=_SIGLIP),
        ModelShape("internvl3-8b", 28, 3584, 28, 4, 128, 18944, 151674, 3328, 256, tower=_INTERN),
    )
}
"""Shapes of the papers' models by name."""
