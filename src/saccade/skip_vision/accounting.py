"""What a Skip-Vision layout saves of the visual prefill: by the paper's convention, and by ours (pure)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from saccade.core.layout import Layout
from saccade.core.pricing import Cost, against, cost
from saccade.core.route import LayerRoute, Route
from saccade.core.shapes import ModelShape
from saccade.families import Family
from saccade.plans.plan import Plan
from saccade.skip_vision.config import SkipVisionConfig
from saccade.skip_vision.layouts import check_layout


@dataclass(frozen=True)
class Saving:
    """A layout beside its dense baseline.

    Attributes:
        attend: Rows of an image that attend in the last layer, summaries included.
        pass_ffn: Rows of an image that pass the FFN there.
        cached: Rows of an image in the KV cache that decoding starts from.
        dense: Rows of an image of the baseline.
        paper_ratio: FLOPs of the visual rows alone by the paper's convention: retained and skipped rows
            without summaries, as many key heads as heads, no text.
        ours: The whole prompt in closed form: text, summaries and grouped heads counted.
    """

    attend: int
    pass_ffn: int
    cached: int
    dense: int
    paper_ratio: float
    ours: Cost


@dataclass(frozen=True)
class Laid:
    """A model's prompt of one typical image.

    Attributes:
        visual: Rows of the image as the layout makes them.
        stock: Rows that the stock model makes of it.
        own: The model's own plan for them.
    """

    visual: int
    stock: int
    own: Plan

    def asked(self, visual: int | None) -> int:
        """Visual rows where a user may ask for some.

        Raises:
            ValueError: If others are asked for than the layout makes.
        """
        if visual not in (None, self.visual):
            raise ValueError(
                f"this Skip-Vision model makes {self.visual} visual rows of an image, not {visual}: leave "
                "the number out"
            )
        return self.visual


def laid_out(config: SkipVisionConfig, family: Family, stock: Any) -> Laid:
    """How a model lays a typical image out; no weights are needed.

    Args:
        config: The layout.
        family: Adapter of the stock model.
        stock: The stock model's configuration.

    Raises:
        ValueError: If images of this family cannot have that layout.
    """
    check_layout(family, config.layout)
    rows = config.projected(family.stock_rows(stock, config.image_size))
    return Laid(config.length(rows), family.stock_rows(stock), Plan(config.methods(rows)))


def saving(
    config: SkipVisionConfig,
    shape: ModelShape,
    rows: int,
    dense: int,
    text: int = 0,
    over: Plan | None = None,
) -> Saving:
    """Counts a layout.

    Args:
        config: The layout.
        shape: Sizes of the decoder.
        rows: Rows of an image (``SkipVisionConfig.projected``).
        dense: Rows of the baseline's image.
        text: Other rows of the prompt.
        over: A plan over the model's own.
    """
    first, _ = config.split(rows)
    layout = Layout.single(config.length(rows), text)
    methods = (*config.methods(rows), *(over.methods if over else ()))
    route = Plan(methods).resolve(shape.layers).route(layout, shape.layers)
    full = cost(shape, Route.dense(Layout.single(dense, text), shape.layers))

    def visual(rows_BN: torch.Tensor) -> int:
        return int((rows_BN & layout.visual_BN).sum())

    def macs(layer: LayerRoute) -> float:
        attend = visual(layer.alive_BN) - config.summaries
        skips = visual(layer.ffn_BN) < visual(layer.alive_BN)
        return paper_macs(shape, attend, min(first, attend) if skips else attend)

    last = route.layers[-1]
    return Saving(
        visual(last.alive_BN),
        visual(last.ffn_BN),
        visual(last.held_BN),
        dense,
        sum(map(macs, route.layers)) / (shape.layers * paper_macs(shape, dense, dense)),
        against(cost(shape, route), full),
    )


def paper_macs(shape: ModelShape, attend: int, pass_ffn: int) -> float:
    """Multiply-accumulates of a layer for visual rows alone: ``4 n d^2 + 2 n^2 d + 3 f d m``.

    The paper (arXiv 2503.21817) does not write its count down; this one gives the shares that it prints.
    """
    d = shape.hidden
    return 4 * attend * d * d + 2 * attend * attend * d + 3 * pass_ffn * d * shape.ffn
