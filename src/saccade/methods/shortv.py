"""ShortV: visual rows are frozen in chosen layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from saccade.core.layout import Layout
from saccade.core.route import LayerRoute
from saccade.methods.base import LayerMethod
from saccade.methods.registry import register

_NEXT_7B = (31, 29, 30, 28, 26, 27, 22, 24, 21, 23, 25, 20, 19, 17, 18, 15, 12, 0, 2)
_NEXT_13B = (39, 32, 29, 36, 27, 30, 37, 23, 25, 31, 26, 2, 28, 22, 33, 35, 34, 24, 38, 21, 20, 18, 1, 17)
_LLAVA_7B = (31, 29, 30, 28, 0, 26, 27, 25, 24, 22, 23, 21, 2, 3, 20, 18, 17, 12, 19)
_LLAVA_13B = (39, 32, 28, 36, 27, 37, 29, 30, 1, 38, 25, 31, 2, 26, 23, 34, 0, 33, 35, 22, 24, 21, 20, 17)


@register
@dataclass(frozen=True)
class ShortV(LayerMethod):
    """ShortV (arXiv 2504.00502): in the chosen layers visual rows skip attention and FFN alike.

    Their K and V are projected afresh from the frozen states and cached, so text attends to them everywhere.
    Presets are the published orders of replacement.
    """

    name = "shortv"
    title = "ShortV"
    paper = "https://arxiv.org/abs/2504.00502"
    saves = ("prefill",)
    score = "lc"

    presets: ClassVar[dict[str, tuple[int, ...]]] = {
        "llava-1.5-7b": _LLAVA_7B,
        "llava-1.5-13b": _LLAVA_13B,
        "llava-next-7b": _NEXT_7B,
        "llava-next-13b": _NEXT_13B,
    }

    def touched(self, layout: Layout, full_BN: torch.Tensor) -> LayerRoute:
        return LayerRoute(full_BN, layout.text_BN, layout.text_BN)
