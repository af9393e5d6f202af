"""Victor: registers behind the visual rows summarise them, then the visual rows withdraw.

Shape letters: B batch, N rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from saccade.core.layout import Layout
from saccade.core.route import LayerRoute
from saccade.methods.base import BudgetMethod
from saccade.methods.registry import register

USUAL_LAYER = 3
"""The layer where none is given."""


@register
@dataclass(frozen=True)
class Victor(BudgetMethod):
    """Victor (arXiv 2410.14072): from layer K on, the last rows of an image stand for all of it.

    On a model wrapped for it (``saccade.skip_vision``) those are learned registers that follow the visual
    rows. On a stock model they are the image's own last rows, which saw all the others and mean little more
    without training.

    Attributes:
        registers: Rows at the end of every image that stay.
        layer: First layer without the other visual rows, from 1; a budget of N withdraws them from the last N
            layers. By default 3.
    """

    name = "victor"
    title = "Victor"
    paper = "https://arxiv.org/abs/2410.14072"
    saves = ("prefill", "kv", "decode")
    by_image = True

    registers: int = 8
    layer: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if sum(given is not None for given in (self.layer, self.budget, self.flops)) > 1:
            raise ValueError("victor: give one of layer, budget or flops")
        for name, least in (("registers", 0), ("layer", 1)):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < least):
                raise ValueError(f"victor: {name} is a whole number from {least}, got {value!r}")

    @property
    def is_resolved(self) -> bool:
        return self.layer is not None

    def touches(self, num_layers: int) -> int:
        return 0 if self.layer is None else num_layers - self.layer

    def with_budget(self, budget: int) -> Victor:
        return replace(self, budget=budget, layer=None, flops=None)

    def resolve(self, num_layers: int, order: Sequence[int] | None = None) -> Victor:
        if self.flops is not None:
            raise self._without_a_prompt()
        if self.budget is not None and self.budget >= num_layers:
            raise ValueError(f"{self}: the registers must be read in a layer; the model has {num_layers}")
        layer = self.layer if self.layer is not None else USUAL_LAYER
        layer = num_layers - self.budget if self.budget is not None else min(layer, num_layers)
        if self.layer is not None and self.layer > num_layers:
            raise ValueError(f"{self}: layer {self.layer} is past the model's {num_layers} layers")
        return replace(self, layer=layer, budget=None)

    def max_strength(self, num_layers: int, order: Sequence[int] | None = None) -> int:
        return num_layers - 1

    def layer_route(self, layout: Layout, full_BN: torch.Tensor, number: int) -> LayerRoute | None:
        if self.layer is None or number < self.layer:
            return None
        counts_BN = torch.zeros_like(layout.image_BN)
        for b, sample in enumerate(layout.counts):
            for image, count in enumerate(sample):
                counts_BN[b, layout.image_BN[b] == image] = count
        alive_BN = layout.text_BN | (layout.visual_BN & (layout.place_BN >= counts_BN - self.registers))
        return LayerRoute(alive_BN, alive_BN, alive_BN)
