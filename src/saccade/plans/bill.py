"""The whole bill of a prompt: vision tower, projector, decoder and head, in closed form (pure).

The decoder is what the engine dispatches (``Cost.executed_tflops``). The head is that of one row per sample,
for ``generate`` asks for no other logits of a prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from math import prod
from typing import Any

from saccade.core.pricing import Cost
from saccade.core.shapes import ModelShape
from saccade.core.tower import Tiling, TowerShape, every, shrunk
from saccade.plans.plan import Plan

BOTTLENECK = 0.5
"""Share of the whole bill from which on the tower is what is left to spare."""


@dataclass(frozen=True)
class Bill:
    """FLOPs of a prompt from its pixels to its first token, in TFLOPs.

    Attributes:
        tower_tflops: The vision tower, with what methods look at in it.
        projector_tflops: The projector, or what joins patches.
        decoder_tflops: Decoder layers, as dispatched.
        head_tflops: The head, on the last row.
        dense_tower_tflops: The tower of the stock model.
        dense_projector_tflops: Its projector.
        dense_decoder_tflops: Its decoder layers.
    """

    tower_tflops: float
    projector_tflops: float
    decoder_tflops: float
    head_tflops: float
    dense_tower_tflops: float
    dense_projector_tflops: float
    dense_decoder_tflops: float

    @property
    def tflops(self) -> float:
        """All of it."""
        return self.tower_tflops + self.projector_tflops + self.decoder_tflops + self.head_tflops

    @property
    def dense_tflops(self) -> float:
        """All of it, of the stock model."""
        seen = self.dense_tower_tflops + self.dense_projector_tflops
        return seen + self.dense_decoder_tflops + self.head_tflops

    @property
    def ratio(self) -> float:
        """``tflops / dense_tflops``."""
        return self.tflops / self.dense_tflops if self.dense_tflops else 1.0

    @property
    def tower_share(self) -> float:
        """Part of the whole that the tower and the projector are."""
        return (self.tower_tflops + self.projector_tflops) / self.tflops if self.tflops else 0.0

    @property
    def tower_is_bottleneck(self) -> bool:
        """Whether more than half of the bill is paid before the decoder."""
        return self.tower_share > BOTTLENECK

    @property
    def verdict(self) -> str:
        """``tower_told`` of it."""
        return tower_told(self.tower_share, self.ratio)

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary for JSON."""
        return vars(self) | {
            "tflops": self.tflops,
            "dense_tflops": self.dense_tflops,
            "ratio": self.ratio,
            "tower_share": self.tower_share,
            "tower_is_bottleneck": self.tower_is_bottleneck,
        }


def tower_told(share: float | None, ratio: float | None) -> str:
    """What to do where a plan spares nothing or the tower has become the bottleneck, in words; else empty.

    Args:
        share: Part of the whole bill that the tower and the projector are; None where it is not known.
        ratio: The whole bill over that of the stock model; None where it is not known.
    """
    told = []
    if ratio is not None and round(ratio, 3) > 1:
        told.append(
            f"the whole bill is {100 * ratio:.1f} % of the dense model's: what the plan looks at costs more "
            "than it spares in the decoder; take a method that does not look into the vision tower"
        )
    if share is not None and share > BOTTLENECK:
        told.append(
            f"the vision tower is {100 * share:.0f} % of the whole bill: what is left to spare lies before "
            "the decoder (a lower resolution, or fewer patches in the tower)"
        )
    return "; ".join(told)


def head_flops(shape: ModelShape) -> float:
    """FLOPs of the head for one row."""
    return 2.0 * shape.hidden * shape.vocab


def seeing_flops(plan: Plan, shape: ModelShape, tilings: Sequence[Tiling]) -> tuple[float, float] | None:
    """FLOPs of the tower and of the projector under a plan; None where the tower's sizes are not known.

    Args:
        plan: A resolved plan: its methods may shrink pictures, merge patches in the tower, or look at it.
        shape: Sizes of the model.
        tilings: The images, at their full size.
    """
    tower = shape.tower
    if tower is None:
        return None
    merge, looks = merging(plan), looking(plan, shape.layers)
    spread = any(m.tower_merge is not None and m.tower_merge.spread for m in plan.methods)
    part = prod(method.tower_part for method in plan.methods)
    stages = (stage for method in plan.methods for stage in method.stages(shape.layers))
    received = {layer for stage in stages for layer in stage.look.received}
    total = [0.0, 0.0]
    for view in every([as_seen(plan, tiling) for tiling in tilings]):
        total[0] += tower.tower_flops(view, merge, part, spread) + tower.looking_flops(view, looks, merge)
        total[0] += tower.receiving_flops(view, received)
        total[1] += tower.projector_flops(view, 0 if spread else merge, part)
    return total[0], total[1]


def merging(plan: Plan) -> int:
    """Tokens that merge in a layer of the tower."""
    return max((m.tower_merge.r for m in plan.methods if m.tower_merge is not None), default=0)


def looking(plan: Plan, num_layers: int) -> int:
    """Layers of the tower that methods of a plan look at."""
    stages = (stage for method in plan.methods for stage in method.stages(num_layers))
    return len({stage.look.tower for stage in stages} - {None})


def as_seen(plan: Plan, tiling: Tiling) -> Tiling:
    """An image as it reaches the tower."""
    if not plan.shortening:
        return tiling
    rows = round(sum(lines * columns for lines, columns in tiling))
    return shrunk(tiling, reduce(lambda n, method: method.visual_rows(n), plan.shortening, rows))


def bill(
    plan: Plan, shape: ModelShape, found: Cost, tilings: Sequence[Tiling], samples: int = 1
) -> Bill | None:
    """The whole bill of some prompts; None where the tower's sizes are not known.

    Args:
        plan: A resolved plan.
        shape: Sizes of the model.
        found: What the plan costs in the decoder.
        tilings: The images of all prompts, at their full size.
        samples: How many prompts.
    """
    seen, dense = seeing_flops(plan, shape, tilings), seeing_flops(Plan(), shape, tilings)
    if seen is None or dense is None:
        return None
    return Bill(
        tower_tflops=seen[0] / 1e12,
        projector_tflops=seen[1] / 1e12,
        decoder_tflops=found.executed_tflops,
        head_tflops=samples * head_flops(shape) / 1e12,
        dense_tower_tflops=dense[0] / 1e12,
        dense_projector_tflops=dense[1] / 1e12,
        dense_decoder_tflops=found.dense_executed_tflops,
    )


def bill_of_prompt(
    plan: Plan, shape: ModelShape, found: Cost, visual: int, cut: int | None = None
) -> Bill | None:
    """The whole bill of a prompt of one image, of which only the rows are known.

    Args:
        plan: A resolved plan.
        shape: Sizes of the model.
        found: What the plan costs in the decoder.
        visual: Visual rows of the stock prompt.
        cut: Views of the image, as many as its rows fill if omitted.
    """
    tower: TowerShape | None = shape.tower
    tilings = [] if tower is None or not visual else [tower.views(visual, shape.views(visual, cut))]
    return bill(plan, shape, found, tilings)
