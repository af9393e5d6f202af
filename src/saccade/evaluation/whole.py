"""The whole bill of prompts that were really asked: tower and projector beside what ran in the decoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from saccade.core.tower import Tiling
from saccade.families import core_of
from saccade.families.projector import projector_stand_in
from saccade.families.tower_shape import cells_of
from saccade.models import Loaded
from saccade.plans.bill import head_flops, seeing_flops
from saccade.plans.plan import Plan


def pictures(loaded: Loaded, inputs: Any) -> list[Tiling]:
    """Views of every image of a batch as the tower gets them; none where its sizes are not known.

    Args:
        loaded: The model.
        inputs: The stock prompts.
    """
    tower = loaded.shape.tower
    # What stands in the projector's place of a Skip-Vision model is not counted.
    if tower is None or projector_stand_in(core_of(loaded.model)) is not None:
        return []
    shown = loaded.family.picture(loaded.model, inputs)
    if shown is None:
        return []
    return cells_of(loaded.family.grouped(loaded.model, shown, inputs), tower)


def with_whole(
    loaded: Loaded, plan: Plan, cost: Mapping[str, float], seen: Mapping[Tiling, int], prompts: int
) -> dict[str, float]:
    """A mean cost with the whole bill beside it, in GFLOPs; as it is where no picture's bill is known.

    Args:
        loaded: The model.
        plan: The plan that ran.
        cost: Mean cost of a prompt in the decoder.
        seen: How often each image occurred.
        prompts: How many prompts there were.
    """
    images = [tiling for tiling, count in seen.items() for _ in range(count)]
    shape = loaded.shape
    ours, stock = seeing_flops(plan, shape, images), seeing_flops(Plan(), shape, images)
    if not images or ours is None or stock is None:
        return dict(cost)
    head = head_flops(shape) / 1e9
    tower, dense_tower = (sum(parts) / prompts / 1e9 for parts in (ours, stock))
    # The rows that ran, by the papers' count: what pads a batch is no cost of a prompt.
    whole = tower + cost["gflops"] + head
    dense = dense_tower + cost["dense_gflops"] + head
    return {
        **cost,
        "tower_gflops": tower,
        "dense_tower_gflops": dense_tower,
        "whole_gflops": whole,
        "dense_whole_gflops": dense,
        "whole_ratio": whole / dense,
        "tower_share": tower / whole,
    }
