"""Sizes of a decoder, all that a closed-form cost needs, and the shapes of the papers' models (pure)."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, isqrt

from saccade.core.sight import Rule


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
        rules: For every layer who sees whom in it; empty where all are causal.
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
    rules: tuple[Rule, ...] = ()

    @property
    def each_rule(self) -> tuple[Rule, ...]:
        """Who sees whom in every layer."""
        return self.rules[: self.layers] or (Rule(),) * self.layers

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

    @property
    def query_width(self) -> int:
        """Total width of the queries (H * d_h)."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Total width of the keys, or of the values (dk)."""
        return self.kv_heads * self.head_dim


_GEMMA_3 = tuple(Rule(None if (n + 1) % 6 == 0 else 1024, "images") for n in range(34))
_PALIGEMMA_2 = tuple(Rule(4096 if n % 2 == 0 else None, "prompt", bounded=False) for n in range(26))

SHAPES: dict[str, ModelShape] = {
    s.name: s
    for s in (
        ModelShape("llava-1.5-7b", 32, 4096, 32, 32, 128, 11008, 32064, 576),
        ModelShape("llava-1.5-13b", 40, 5120, 40, 40, 128, 13824, 32064, 576),
        ModelShape("llava-llama3-8b", 32, 4096, 32, 8, 128, 14336, 128256, 576),
        ModelShape("llava-next-7b", 32, 4096, 32, 32, 128, 11008, 32064, 2880, 576),
        ModelShape("llava-next-13b", 40, 5120, 40, 40, 128, 13824, 32064, 2880, 576),
        ModelShape("qwen2-vl-7b", 28, 3584, 28, 4, 128, 18944, 152064, 1280),
        ModelShape("qwen2.5-vl-7b", 28, 3584, 28, 4, 128, 18944, 152064, 1280),
        ModelShape("qwen3-vl-8b", 36, 4096, 32, 8, 128, 12288, 151936, 1280),
        ModelShape("llava-onevision-7b", 28, 3584, 28, 4, 128, 18944, 152128, 3645, 729),
        ModelShape("internvl3-8b", 28, 3584, 28, 4, 128, 18944, 151674, 3328, 256),
        ModelShape("gemma-3-4b", 34, 2560, 8, 4, 256, 10240, 262208, 256, rules=_GEMMA_3),
        ModelShape("paligemma2-3b", 26, 2304, 8, 4, 256, 9216, 257216, 1024, rules=_PALIGEMMA_2),
    )
}
"""Shapes of the papers' models by name."""
