"""VTW: all visual rows are withdrawn before layer K."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from saccade.core.layout import Layout
from saccade.core.route import LayerRoute
from saccade.methods.base import BudgetMethod
from saccade.methods.registry import register


@register
@dataclass(frozen=True)
class VTW(BudgetMethod):
    """VTW, visual tokens withdrawal (arXiv 2405.05803): from layer K on there are only text rows.

    ``layer=16`` means 16 dense layers, as in the official code; a budget of N withdraws from the last N
    layers. Positions of the text stay what they were (the authors' default mode). Calibration by
    ``withdrawal`` tries every layer as K, where the official search begins at layer 5: it may find a smaller.

    Attributes:
        layer: First layer without visual rows.
        preset: K of the papers for a named model.
    """

    name = "vtw"
    title = "VTW"
    paper = "https://arxiv.org/abs/2405.05803"
    saves = ("prefill", "kv", "decode")
    score = "withdrawal"

    presets: ClassVar[dict[str, int]] = {
        "llava-1.5-7b": 16,
        "llava-1.5-13b": 20,
        "llava-next-7b": 16,
        "llava-next-13b": 20,
        "qwen2.5-vl-7b": 7,
    }

    layer: int | None = None
    preset: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if sum(given is not None for given in (self.layer, self.preset, self.budget, self.flops)) > 1:
            raise ValueError("vtw: give one of layer, budget, flops or preset")
        if self.layer is not None and (type(self.layer) is not int or self.layer < 0):
            raise ValueError(f"vtw: layer is a number from 0, got {self.layer}")
        if self.preset is not None and self.preset not in self.presets:
            raise ValueError(f"vtw: no preset {self.preset!r}; known: {', '.join(sorted(self.presets))}")

    @property
    def is_resolved(self) -> bool:
        return self.layer is not None

    @property
    def needs_order(self) -> bool:
        return all(given is None for given in (self.layer, self.preset, self.budget, self.flops))

    @property
    def published(self) -> int | None:
        return None if self.preset is None else self.presets[self.preset]

    def touches(self, num_layers: int) -> int:
        return 0 if self.layer is None else num_layers - self.layer

    def with_budget(self, budget: int) -> VTW:
        return VTW(budget=budget)

    def resolve(self, num_layers: int, order: Sequence[int] | None = None) -> VTW:
        layer = self.layer
        if self.preset is not None:
            layer = self.presets[self.preset]
        elif self.budget is not None:
            if self.budget > num_layers:
                raise ValueError(f"{self}: the model has only {num_layers} layers")
            layer = num_layers - self.budget
        elif layer is None and self.flops is None:
            if order is None:
                raise ValueError("vtw: give layer=..., budget=..., flops=... or preset=..., or calibrate it")
            layer = num_layers - len(order)
        if layer is None:
            raise self._without_a_prompt()
        if layer > num_layers:
            raise ValueError(f"{self}: layer {layer} is past the model's {num_layers} layers")
        return replace(self, layer=layer, preset=None, budget=None)

    def layer_route(self, layout: Layout, full_BN: torch.Tensor, number: int) -> LayerRoute | None:
        if self.layer is None or number < self.layer:
            return None
        return LayerRoute(layout.text_BN, layout.text_BN, layout.text_BN)
