"""What a Skip-Vision layout saves of the visual prefill: by the paper's convention, and by ours (pure)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from saccade.families import Family
from saccade.layout import Layout
from saccade.plan import Plan
from saccade.pricing import Cost, against, cost
from saccade.route import Route
from saccade.shapes import ModelShape
from saccade.skip_vision.config import SkipVisionConfig


@dataclass(frozen=True)
class Saving:
    """A layout beside its dense baseline.

    Attributes:
        attend: Rows of an image that attend, summaries included.
        pass_ffn: Rows of an image that pass the FFN.
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
    """
    rows = config.projected(family.stock_rows(stock, config.image_size))
    return Laid(config.length(rows), family.stock_rows(stock), Plan(config.methods(rows)))


def saving(config: SkipVisionConfig, shape: ModelShape, rows: int, dense: int, text: int = 0) -> Saving:
    """Counts a layout.

    Args:
        config: The layout.
        shape: Sizes of the decoder.
        rows: Rows of an image (``SkipVisionConfig.projected``).
        dense: Rows of the baseline's image.
        text: Other rows of the prompt.
    """
    first, _ = config.split(rows)
    skipped, attend = config.skipped(rows), config.length(rows)
    layout = Layout.single(attend, text)
    plan = Plan(config.methods(rows)).resolve(shape.layers)
    route = plan.route(layout, shape.layers)
    visual = layout.visual_BN
    full = cost(shape, Route.dense(Layout.single(dense, text), shape.layers))
    passing = first if config.skip_ffn else first + skipped
    return Saving(
        attend,
        int((route.layers[0].ffn_BN & visual).sum()),
        int((route.layers[-1].held_BN & visual).sum()),
        dense,
        paper_macs(shape, first + skipped, passing) / paper_macs(shape, dense, dense),
        against(cost(shape, route), full),
    )


def paper_macs(shape: ModelShape, attend: int, pass_ffn: int) -> float:
    """Multiply-accumulates of a layer for visual rows alone: ``4 n d^2 + 2 n^2 d + 3 f d m``.

    The paper (arXiv 2503.21817) does not write its count down; this one gives the shares that it prints.
    """
    d = shape.hidden
    return 4 * attend * d * d + 2 * attend * attend * d + 3 * pass_ffn * d * shape.ffn
