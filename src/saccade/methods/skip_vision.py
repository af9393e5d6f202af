"""Skip-Vision's decoder side: skipped visual rows attend and bypass every FFN, and leave the cache.

Shape letters: B batch, N rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch

from saccade.core.layout import Layout
from saccade.core.route import LayerRoute, Route
from saccade.methods.base import STRENGTHS, Method
from saccade.methods.reducer import Amount, read_amount, rows_of
from saccade.methods.registry import register

Release = Literal["none", "small", "middle+small"]
Split = Literal["leading", "grid"]


@register
@dataclass(frozen=True)
class SkipVision(Method):
    """Skip-Vision (arXiv 2503.21817): the rows of an image are retained ones, skipped ones and summaries.

    In every layer all rows attend; skipped rows get no FFN, in every layer or from a given one on. The rows
    of an image stand in this order: ``retained`` rows, the former summary, the skipped rows, the latter
    summary. On a model that was wrapped for it (``saccade.skip_vision``) that is how its abstractor lays them
    out. On a stock model leave ``skipped`` open and the summaries off: then the skipped rows are all that are
    not retained, which without training costs accuracy. The paper counts neither summaries nor the promoted
    last row as retained.

    Attributes:
        retained: Rows of an image that pass the FFN: a fraction up to 1, or a number of rows from 2.
        skipped: Most rows of an image that bypass it; the rest of the image if omitted.
        coarse: How many of the retained rows are of the coarsest scale (Chain-of-Sight's large windows).
        former: Whether a summary of the retained rows follows them (FS).
        latter: Whether a summary of the skipped rows ends the image (LS).
        local: Whether the last skipped row passes the FFN and stays in the cache after all (LV).
        ffn: Whether skipped rows bypass the FFN; off, the method is about the cache alone.
        cache: What leaves the KV cache once the prompt is read (SK): the skipped rows (``small``), or the
            retained ones that are not of the coarsest scale as well (``middle+small``). Positions stay.
        split: Where the retained rows stand: first (``leading``), or evenly spread over the image (``grid``).
        rows: Rows that are retained, as a number from 1, in place of ``retained``, where 1 is all of them.
        layer: First layer whose FFN skipped rows bypass, from 0: the paper's, all of them.
    """

    name = "skip_vision"
    title = "Skip-Vision"
    paper = "https://arxiv.org/abs/2503.21817"
    saves = ("prefill", "kv", "decode")
    by_image = True

    retained: Amount = 0.25
    skipped: int | None = None
    coarse: int = 0
    former: bool = False
    latter: bool = False
    local: bool = False
    ffn: bool = True
    cache: Release = "none"
    split: Split = "leading"
    rows: int | None = None
    layer: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rows is not None:
            self._read_rows(self.rows)
        object.__setattr__(self, "retained", read_amount(self.retained, "skip_vision: retained"))
        for name, rows in (("skipped", self.skipped), ("coarse", self.coarse)):
            if rows is not None and (type(rows) is not int or rows < 0):
                raise ValueError(f"skip_vision: {name} is a number of rows from 0, got {rows!r}")
        if type(self.layer) is not int or self.layer < 0:
            raise ValueError(f"skip_vision: layer is the number of a layer from 0, got {self.layer!r}")
        if self.layer and not self.ffn:
            raise ValueError("skip_vision: layer says where FFNs are bypassed; with ffn=false none is")
        for name, word, options in (("cache", self.cache, Release), ("split", self.split, Split)):
            if word not in get_args(options):
                raise ValueError(
                    f"skip_vision: {name} is one of {', '.join(get_args(options))}, got {word!r}"
                )
        if self.split == "grid" and (self.former or self.latter or self.local):
            raise ValueError(
                "skip_vision: summaries and the last row need their places (split=leading); with split=grid "
                "rows are only retained or skipped"
            )

    def _read_rows(self, rows: int) -> None:
        if type(rows) is not int or rows < 1:
            raise ValueError(f"skip_vision: rows is a number of rows from 1, got {rows!r}")
        if self.retained != type(self).retained:
            raise ValueError("skip_vision: retained and rows say the same; give one of them")
        if rows > 1:
            # One way to write it, that of earlier plans.
            object.__setattr__(self, "retained", rows)
            object.__setattr__(self, "rows", None)

    @property
    def releases(self) -> bool:
        return self.cache != "none"

    def resolve(self, num_layers: int, order: Sequence[int] | None = None) -> Method:
        found = super().resolve(num_layers, order)
        if self.layer >= num_layers:
            raise ValueError(
                f"{self}: layer {self.layer} is past the model's {num_layers} layers (0-{num_layers - 1})"
            )
        return found

    def max_strength(self, num_layers: int, order: Sequence[int] | None = None) -> int:
        return STRENGTHS if self.skipped is None else 0

    def at_strength(self, strength: int) -> SkipVision:
        if self.skipped is not None:
            return replace(self, flops=None)
        return replace(self, retained=(STRENGTHS - strength) / STRENGTHS, rows=None, flops=None)

    def route(self, layout: Layout, num_layers: int) -> Route:
        self.resolve(num_layers)
        full = torch.ones_like(layout.visual_BN)
        late = self.layer_route(layout, full, self.layer)
        early = replace(late, ffn_BN=full)
        return Route(layout, (early,) * self.layer + (late,) * (num_layers - self.layer))

    def layer_route(self, layout: Layout, full_BN: torch.Tensor, number: int) -> LayerRoute:
        passes_BN, stays_BN = layout.text_BN.clone(), layout.text_BN.clone()
        for b, sample in enumerate(layout.counts):
            for image, count in enumerate(sample):
                rows = (layout.image_BN[b] == image).nonzero()[:, 0]
                passes_BN[b, rows], stays_BN[b, rows] = self.of_image(count)
        skips = self.ffn and number >= self.layer and bool((layout.visual_BN & ~passes_BN).any())
        releases = self.releases and bool((layout.visual_BN & ~stays_BN).any())
        ffn_BN = passes_BN if skips else full_BN
        return LayerRoute(full_BN, full_BN, ffn_BN, cached_BN=stays_BN if releases else None)

    def of_image(self, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Which rows of an image pass the FFN, and which stay in the cache.

        Args:
            rows: Visual rows of the image.

        Raises:
            ValueError: If so many rows are not laid out like this.
        """
        spare = int(self.former) + int(self.latter)
        retained = rows_of(self.retained, rows) if self.rows is None else self.rows
        skipped = rows - retained - spare
        most = self.skipped
        if skipped < int(self.local) or (most is not None and skipped > most):
            raise ValueError(
                f"{self} lays out {retained} retained, {'the other' if most is None else most} skipped and "
                f"{spare} summary rows, but an image here has {rows} rows: take a model that was wrapped for "
                "it (saccade.skip_vision), with the prompt in one piece, or leave skipped open and the "
                "summaries off"
            )
        passes = torch.ones(rows, dtype=torch.bool)
        if self.split == "grid":
            passes[:] = False
            passes[(torch.arange(retained) * rows) // max(retained, 1)] = True
        else:
            first = retained + int(self.former)
            passes[first : first + skipped - int(self.local)] = False
        stays = passes.clone()
        if self.cache == "middle+small":
            stays[self.coarse : retained] = False
        return passes, stays
