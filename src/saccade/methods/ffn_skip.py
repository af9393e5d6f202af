"""FFN-Skip: visual rows attend as usual and bypass the FFN in chosen layers."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from saccade.core.layout import Layout
from saccade.core.route import LayerRoute
from saccade.methods.base import LayerMethod
from saccade.methods.registry import register


@register
@dataclass(frozen=True)
class FFNSkip(LayerMethod):
    """FFN-Skip (ablation of V-Skip, arXiv 2606.08511): visual rows get FFN output 0 in the chosen layers.

    The paper does not say how its layers were chosen; ours are chosen by their own KL.
    """

    name = "ffn_skip"
    title = "FFN-Skip"
    paper = "https://arxiv.org/abs/2606.08511"
    saves = ("prefill",)
    score = "ffn"

    def touched(self, layout: Layout, full_BN: torch.Tensor) -> LayerRoute:
        return LayerRoute(full_BN, full_BN, layout.text_BN)
