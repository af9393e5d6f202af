"""Sizes of a decoder, all that a closed-form cost needs, and the shapes of the papers' models (pure)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import cached_property
from math import ceil, isqrt
from typing import Any

from saccade.core.sight_rule import SightRule
from saccade.core.tower import TowerShape


@dataclass(frozen=True)
class Experts:
    """A sparse FFN: a router picks some of many experts for every row.

    Attributes:
        count: Experts that the router chooses from.
        chosen: Experts that a row passes.
        width: Inner width of one.
        shared: Inner width of what every row passes beside them.
        weighed: Whether every row says how much that counts.
        all_run: Whether the stock model runs every expert on every row, those that were not chosen on zeros.
    """

    count: int
    chosen: int
    width: int
    shared: int = 0
    weighed: bool = False
    all_run: bool = False

    @property
    def routing(self) -> int:
        """Numbers that a row's way through the FFN is told by: the router's logits, and that weight."""
        return self.count + int(self.weighed)

    @property
    def passed(self) -> int:
        """Inner width of all that a row passes."""
        return self.chosen * self.width + self.shared

    @property
    def held(self) -> int:
        """Inner width of all that there is."""
        return self.count * self.width + self.shared


@dataclass(frozen=True)
class Recurrent:
    """What mixes rows through a state of fixed size in some layers, in attention's place.

    Sizes are those of a gated delta net (arXiv 2412.06464) behind a short convolution.

    Attributes:
        layers: Numbers of the layers that have it.
        key_heads: Heads of its queries and keys.
        value_heads: Heads of its values, each with a state.
        key_dim: Width of a head of queries and keys.
        value_dim: Width of a head of values.
        kernel: Rows that its convolution sees.
        chunk: Rows that are mixed at once.
    """

    layers: tuple[int, ...]
    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    kernel: int
    chunk: int = 64

    @property
    def value_width(self) -> int:
        """Total width of the values."""
        return self.value_heads * self.value_dim

    @property
    def mixed_width(self) -> int:
        """Total width of what passes the convolution: queries, keys and values."""
        return 2 * self.key_heads * self.key_dim + self.value_width

    @property
    def state(self) -> int:
        """Numbers that it remembers of a prompt: the states, and the last rows before the convolution."""
        return self.value_heads * self.key_dim * self.value_dim + self.mixed_width * self.kernel

    def matrices(self, hidden: int) -> tuple[tuple[int, int], ...]:
        """What a row is projected by (in, out): queries, keys, values; gate; decay and strength; output."""
        inner = self.value_width
        gates = (hidden, inner), (hidden, 2 * self.value_heads)
        return (hidden, self.mixed_width), *gates, (inner, hidden)

    def row_flops(self, hidden: int) -> int:
        """FLOPs of a row in its projections."""
        return sum(2 * into * out for into, out in self.matrices(hidden))

    def step_flops(self) -> int:
        """FLOPs of a row in the recurrence itself, and in the convolution."""
        return 6 * self.value_heads * self.key_dim * self.value_dim + 2 * self.kernel * self.mixed_width

    def token_flops(self) -> int:
        """FLOPs of a new token beside its projections: the convolution; a state is no matrix product."""
        return 4 * self.kernel * self.mixed_width

    def chunk_flops(self, rows: int) -> int:
        """FLOPs of a sample of so many rows as chunks mix it, and of the convolution.

        Solving a chunk's triangular system is not among them, as it is not in torch's own counter.
        """
        c, k, v = self.chunk, self.key_dim, self.value_dim
        each = 2 * c * (2 * c * k + c * v + 3 * k * v)
        longer = rows + self.kernel - 1 if rows else 0
        return -(-rows // c) * self.value_heads * each + 2 * self.kernel * self.mixed_width * longer


@dataclass(frozen=True)
class ShortConv:
    """A gated convolution over the last few rows, in some layers in attention's place (LFM2).

    Attributes:
        layers: Numbers of the layers that have it.
        width: Its channels.
        kernel: Rows that it sees.
    """

    layers: tuple[int, ...]
    width: int
    kernel: int

    @property
    def value_width(self) -> int:
        """Total width of what it gives."""
        return self.width

    @property
    def mixed_width(self) -> int:
        """Total width of what passes the convolution."""
        return self.width

    @property
    def state(self) -> int:
        """Numbers that it remembers of a prompt: the last rows before the convolution."""
        return self.width * self.kernel

    def matrices(self, hidden: int) -> tuple[tuple[int, int], ...]:
        """What a row is projected by (in, out): two gates and what passes the convolution; output."""
        return (hidden, 3 * self.width), (self.width, hidden)

    def row_flops(self, hidden: int) -> int:
        """FLOPs of a row in its projections."""
        return sum(2 * into * out for into, out in self.matrices(hidden))

    def step_flops(self) -> int:
        """FLOPs of a row in the convolution."""
        return 2 * self.kernel * self.width

    def token_flops(self) -> int:
        """FLOPs of a new token beside its projections, as the stock model computes its convolution."""
        return 4 * self.kernel * self.width

    def chunk_flops(self, rows: int) -> int:
        """FLOPs of the convolution over a sample of so many rows, and over the padding before them."""
        return 2 * self.kernel * self.width * (rows + self.kernel - 1 if rows else 0)


Recurrence = Recurrent | ShortConv
"""What mixes rows through a state of fixed size."""


@dataclass(frozen=True)
class LayerShape:
    """Sizes of one decoder layer.

    Attributes:
        hidden: Width of the residual stream (d).
        query_width: Total width of the queries (dq); 0 where the layer is recurrent.
        kv_width: Total width of the keys, or of the values (dk); 0 where the layer is recurrent.
        ffn: Inner width of the FFN; of a sparse one, of what a row passes.
        experts: What a sparse FFN is made of; None where every row passes all of it.
        gated: Whether every query brings a gate of its width for what the attention gives it.
        recurrent: What mixes rows in attention's place; None where the layer has attention.
        rule: Who sees whom.
        ffn_matrices: Matrices of the FFN: gate, up and down; 2 where it has no gate.
    """

    hidden: int
    query_width: int
    kv_width: int
    ffn: int
    experts: Experts | None = None
    gated: bool = False
    recurrent: Recurrence | None = None
    rule: SightRule = field(default_factory=SightRule)
    ffn_matrices: int = 3

    @property
    def kept_flops(self) -> int:
        """FLOPs of projecting a row that is alive: keys and values, or all that a recurrent layer has."""
        if self.recurrent is not None:
            return self.recurrent.row_flops(self.hidden)
        return 4 * self.hidden * self.kv_width

    @property
    def asking_flops(self) -> int:
        """FLOPs of projecting a row that asks: its queries, its gate and its output."""
        return (6 if self.gated else 4) * self.hidden * self.query_width

    @property
    def ffn_flops(self) -> int:
        """FLOPs of one row in the FFN's matrices, and what a router takes where there is one."""
        routing = 0 if self.experts is None else self.experts.routing
        return 2 * self.hidden * (self.ffn_matrices * self.ffn + routing)

    @property
    def ffn_dispatched(self) -> int:
        """FLOPs of one row in the FFN as the stock model runs it: all experts, where it runs them all."""
        if self.experts is None or not self.experts.all_run:
            return self.ffn_flops
        return 2 * self.hidden * (self.ffn_matrices * self.experts.held + self.experts.routing)

    @property
    def ffn_held(self) -> int:
        """Inner width of all FFN weights."""
        return self.ffn if self.experts is None else self.experts.held

    def weights(self) -> int:
        """Numbers in the matrices of the layer."""
        router = 0 if self.experts is None else self.experts.routing
        convolution = 0 if self.recurrent is None else self.recurrent.mixed_width * self.recurrent.kernel
        rows = (self.kept_flops + self.asking_flops) // 2
        return rows + convolution + self.hidden * (self.ffn_matrices * self.ffn_held + router)


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
        ffn: Inner width of the FFN (m); of a sparse one, of what a row passes.
        vocab: Vocabulary size.
        visual: Visual tokens of a typical image, the default of ``cost`` and ``bench``.
        view: Patches of a view, where the model cuts images into views; None where it does not.
        experts: What a sparse FFN is made of; None where every row passes all of it.
        rules: For every layer who sees whom in it; empty where all are causal.
        tower: Sizes of its vision tower and projector; None where they are not known.
        gated: Whether every query brings a gate of its width for what the attention gives it.
        recurrent: What mixes rows in some layers, in attention's place; None where all have attention.
        plain: Layers whose FFN is a plain one, in a decoder whose other layers have experts.
        plain_ffn: Inner width of those.
        ffn_matrices: Matrices of an FFN: gate, up and down; 2 where it has no gate.
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
    experts: Experts | None = None
    rules: tuple[SightRule, ...] = ()
    tower: TowerShape | None = None
    gated: bool = False
    recurrent: Recurrence | None = None
    plain: tuple[int, ...] = ()
    plain_ffn: int = 0
    ffn_matrices: int = 3

    @property
    def recurrent_layers(self) -> tuple[int, ...]:
        """Numbers of the layers that mix rows through a state."""
        return () if self.recurrent is None else self.recurrent.layers

    @cached_property
    def each_layer(self) -> tuple[LayerShape, ...]:
        """Sizes of every layer; equal ones are one object."""
        rules, recurs = self.rules[: self.layers] or (SightRule(),) * self.layers, set(self.recurrent_layers)
        made: dict[tuple[SightRule, bool, bool], LayerShape] = {}
        found = []
        for number, rule in enumerate(rules):
            key = (rule, number in recurs, number in self.plain)
            found.append(made.setdefault(key, self._layer(*key)))
        return tuple(found)

    def _layer(self, rule: SightRule, recurs: bool, plain: bool) -> LayerShape:
        widths = (0, 0) if recurs else (self.query_width, self.kv_width)
        fed = (self.plain_ffn, None) if plain else (self.ffn, self.experts)
        mixed = (False, self.recurrent) if recurs else (self.gated, None)
        return LayerShape(self.hidden, *widths, *fed, *mixed, rule, self.ffn_matrices)

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


_GEMMA_3 = tuple(SightRule(None if (n + 1) % 6 == 0 else 1024, "images") for n in range(34))
_PALIGEMMA_2 = tuple(SightRule(4096 if n % 2 == 0 else None, "prompt", bounded=False) for n in range(26))


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
_QWEN3_MOE = TowerShape(27, 1152, 4304, 16, 1536, _joined(1152, 4, 2048), merge=4, fused=True)
_QWEN35 = TowerShape(27, 1152, 4304, 16, 1536, _joined(1152, 1, 4096), merge=4, fused=True)
_QWEN35_MOE = TowerShape(27, 1152, 4304, 16, 1536, _joined(1152, 1, 2048), merge=4, fused=True)
_SMOL = TowerShape(12, 768, 3072, 12, 768, ((12288, 576),), 8, merge=16)
_SMOL2 = TowerShape(27, 1152, 4304, 16, 588, ((10368, 2048),), 9, merge=9)
_LFM2 = TowerShape(27, 1152, 4304, 16, 768, ((4608, 2048), (2048, 2048)), merge=4)
_INTERN = TowerShape(24, 1024, 4096, 16, 588, ((4096, 3584), (3584, 3584)), 16, cls=1, merge=4, made=24)


_PIXTRAL = TowerShape(24, 1024, 4096, 16, 768, ((1024, 5120), (5120, 5120)), gated=True, made=24)
_MISTRAL_3 = TowerShape(
    24, 1024, 4096, 16, 588, ((4096, 1024), (1024, 5120), (5120, 5120)), merge=4, gated=True, made=24
)
_GEMMA_TOWER = TowerShape(27, 1152, 4304, 16, 588, ((1152, 2560),), 16, merge=16)
_PALIGEMMA_TOWER = TowerShape(27, 1152, 4304, 16, 588, ((1152, 2304),), 32)


_MOLMO_2 = tuple(SightRule(blocks="visual") for _ in range(36))
_MOLMO_TOWER = TowerShape(
    25, 1152, 4304, 16, 588,
    ((2304, 1152), (1152, 4), (4, 1152), (1152, 1152), (1152, 12288), (1152, 12288), (12288, 4096)),
    merge=4, made=25, crop=729, patchwise=((2304, 1152), (2304, 1152)),
)  # fmt: skip


_LLAMA_4 = tuple(SightRule(chunk=8192 if (n + 1) % 4 else None) for n in range(48))
_LLAMA_TOWER = TowerShape(
    34, 1408, 5632, 16, 588, ((5632, 4096), (4096, 4096), (4096, 5120)), 12, cls=1, merge=4
)


def _glm(inner: int) -> TowerShape:
    """GLM-4's tower; a gated part of this width joins four patches to a row."""
    projector = ((6144, 4096), (4096, 4096), (4096, inner), (4096, inner), (inner, 4096))
    return TowerShape(24, 1536, 4096, 12, 1176, projector, merge=4, gated=True, fused=True)


_MOLMO_2_8B = ModelShape(
    "molmo2-8b", 36, 4096, 32, 8, 128, 12288, 151936, 955, 132, rules=_MOLMO_2, tower=_MOLMO_TOWER
)

_SCOUT = ModelShape(
    "llama-4-scout", 48, 5120, 40, 8, 128, 2 * 8192, 202048, 1872, 144,
    experts=Experts(16, 1, 8192, 8192, all_run=True), rules=_LLAMA_4, tower=_LLAMA_TOWER,
)  # fmt: skip

_PALIGEMMA_2_3B = ModelShape(
    "paligemma2-3b", 26, 2304, 8, 4, 256, 9216, 257216, 1024, rules=_PALIGEMMA_2, tower=_PALIGEMMA_TOWER
)

SHAPES: dict[str, ModelShape] = {
    s.name: s
    for s in (
        ModelShape("llava-1.5-7b", 32, 4096, 32, 32, 128, 11008, 32064, 576, tower=_clip(4096)),
        ModelShape("llava-1.5-13b", 40, 5120, 40, 40, 128, 13824, 32064, 576, tower=_clip(5120)),
        ModelShape("llava-llama3-8b", 32, 4096, 32, 8, 128, 14336, 128256, 576, tower=_clip(4096)),
        ModelShape("llava-next-7b", 32, 4096, 32, 32, 128, 11008, 32064, 2880, 576, tower=_clip(4096)),
        ModelShape("llava-next-13b", 40, 5120, 40, 40, 128, 13824, 32064, 2880, 576, tower=_clip(5120)),
        ModelShape("llava-next-video-7b", 32, 4096, 32, 32, 128, 11008, 32064, 2880, 576, tower=_clip(4096)),
        ModelShape("qwen2-vl-7b", 28, 3584, 28, 4, 128, 18944, 152064, 1280, tower=_QWEN2),
        ModelShape("qwen2.5-vl-7b", 28, 3584, 28, 4, 128, 18944, 152064, 1280, tower=_QWEN25),
        ModelShape("qwen3-vl-8b", 36, 4096, 32, 8, 128, 12288, 151936, 1280, tower=_QWEN3),
        ModelShape(
            "lfm2.5-vl-1.6b",
            16,
            2048,
            32,
            8,
            64,
            8192,
            65536,
            256,
            tower=_LFM2,
            recurrent=ShortConv((0, 1, 3, 4, 6, 7, 9, 11, 13, 15), 2048, 3),
        ),
        ModelShape("llava-onevision-7b", 28, 3584, 28, 4, 128, 18944, 152128, 3645, 729, tower=_SIGLIP),
        ModelShape("internvl3-8b", 28, 3584, 28, 4, 128, 18944, 151674, 3328, 256, tower=_INTERN),
        ModelShape(
            "qwen3.5-9b",
            32,
            4096,
            16,
            4,
            256,
            12288,
            248320,
            1280,
            tower=_QWEN35,
            gated=True,
            recurrent=Recurrent(tuple(n for n in range(32) if (n + 1) % 4), 16, 32, 128, 128, 4),
        ),
        ModelShape(
            "qwen3.5-35b-a3b",
            40,
            2048,
            16,
            2,
            256,
            9 * 512,
            248320,
            1280,
            experts=Experts(256, 8, 512, 512, weighed=True),
            tower=_QWEN35_MOE,
            gated=True,
            recurrent=Recurrent(tuple(n for n in range(40) if (n + 1) % 4), 16, 32, 128, 128, 4),
        ),
        ModelShape(
            "glm-4.5v",
            46,
            4096,
            96,
            8,
            128,
            9 * 1408,
            151552,
            1280,
            experts=Experts(128, 8, 1408, 1408),
            tower=_glm(10944),
            plain=(0,),
            plain_ffn=10944,
        ),
        ModelShape(
            "qwen3-vl-30b-a3b",
            48,
            2048,
            32,
            4,
            128,
            8 * 768,
            151936,
            1280,
            experts=Experts(128, 8, 768),
            tower=_QWEN3_MOE,
        ),
        ModelShape("smolvlm-256m", 30, 576, 9, 3, 64, 1536, 49280, 832, 64, tower=_SMOL),
        ModelShape("smolvlm2-2.2b", 24, 2048, 32, 32, 64, 8192, 49280, 1053, 81, tower=_SMOL2),
        ModelShape("mistral-small-3.1-24b", 40, 5120, 32, 8, 128, 32768, 131072, 3025, tower=_MISTRAL_3),
        ModelShape("pixtral-12b", 40, 5120, 32, 8, 128, 14336, 131072, 4096, tower=_PIXTRAL),
        _MOLMO_2_8B,
        _SCOUT,
        ModelShape("glm-4.1v-9b", 40, 4096, 32, 2, 128, 13696, 151552, 1280, tower=_glm(13696)),
        ModelShape("gemma-3-4b", 34, 2560, 8, 4, 256, 10240, 262208, 256, rules=_GEMMA_3, tower=_GEMMA_TOWER),
        _PALIGEMMA_2_3B,
    )
}
"""Shapes of the papers' models by name."""
