"""V-Skip: visual rows bypass self-attention in chosen layers, and pass every FFN."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from saccade.core.layout import Layout
from saccade.core.route import LayerRoute
from saccade.methods.base import LayerMethod
from saccade.methods.registry import register


@register
@dataclass(frozen=True)
class VSkip(LayerMethod):
    """V-Skip (arXiv 2606.08511): in the chosen layers visual rows ride the residual past self-attention.

    Their K and V are still projected and cached, so text attends to everything and the KV cache keeps its
    size. We follow the reading that the paper's FLOPs table fits (the whole attention output is bypassed).

    Attributes:
        reading: ``bypass``, or ``mask``: visual rows still attend, but only to text before them and to
            themselves (the other reading of the paper's text; it saves less and is here for study).
    """

    name = "vskip"
    title = "V-Skip"
    paper = "https://arxiv.org/abs/2606.08511"
    saves = ("prefill",)
    score = "vig"

    reading: Literal["bypass", "mask"] = "bypass"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reading not in ("bypass", "mask"):
            raise ValueError(f"vskip: reading is bypass or mask, got {self.reading!r}")

    def touched(self, layout: Layout, full_BN: torch.Tensor) -> LayerRoute:
        if self.reading == "mask":
            return LayerRoute(full_BN, full_BN, full_BN, "text_and_self")
        return LayerRoute(full_BN, layout.text_BN, full_BN)
