"""The vision tower in a bench: its time, stated apart, and a made-up one for methods that look at it.

Shape letters: B batch, N rows, V tower width, T views.
"""

from __future__ import annotations

import inspect
import statistics
from contextlib import nullcontext
from dataclasses import dataclass
from math import isqrt, sqrt
from typing import Any

import torch
from PIL import Image

from saccade.core.layout import Layout
from saccade.core.stages import Grid, Vision
from saccade.engine import apply
from saccade.inputs.samples import Sample
from saccade.measure.clock import now
from saccade.measure.target import Target
from saccade.plans.plan import Plan

SIDE, MOST_SIDE = 336, 4096
"""Pixels of the picture that is tried first, and of the largest."""


@dataclass(frozen=True)
class SeeingTimes:
    """What making the features of one image takes.

    Attributes:
        dense_s: Median seconds of the stock model.
        plan_s: Median seconds under the plan, which may look, merge or be given a smaller picture.
        rows: Rows that the stock model makes of the picture.
    """

    dense_s: float
    plan_s: float
    rows: int


@torch.inference_mode()
def seeing_times(
    target: Target, plan: Plan, repeats: int, visual: int, side: int = SIDE
) -> SeeingTimes | None:
    """Times of ``get_image_features`` for one image, stock and under a plan in turn, the first pair left out.

    Args:
        target: A model with its processor.
        plan: The plan, resolved.
        repeats: Timed pairs.
        visual: Rows that the picture should have, as nearly as the processor gives them.
        side: Pixels of the square picture that is tried first.

    Returns:
        The times, or None for a model that came without its processor.
    """
    if target.loaded is None:
        return None
    picture = _picture(side)
    rows = _rows(target, picture)
    if rows and rows != visual:
        picture = _picture(min(max(round(side * sqrt(visual / rows)), 1), MOST_SIDE))
        rows = _rows(target, picture)
    given = {planned: _given(target, picture, plan if planned else None) for planned in (False, True)}
    device = next(target.model.parameters()).device
    found: dict[bool, list[float]] = {False: [], True: []}
    for turn in range(repeats + 1):
        for planned in (False, True) if turn % 2 else (True, False):
            with apply(target.model, plan) if planned else nullcontext():
                core: Any = target.parts.core
                features: Any = getattr(core, target.family.feature_makers(core)["image"])
                start = now(device)
                features(**given[planned])
                found[planned].append(now(device) - start)
    dense_s, plan_s = (statistics.median(found[planned][1:]) for planned in (False, True))
    return SeeingTimes(dense_s, plan_s, rows)


def _picture(side: int) -> Sample:
    image = Image.effect_mandelbrot((side, side), (-2, -1.5, 1, 1.5), 100).convert("RGB")
    return Sample("bench", "bench", "", (image,), "What is shown?")


def _rows(target: Target, sample: Sample) -> int:
    """Rows that the stock model makes of a picture."""
    from saccade.models import inputs

    ready = inputs(target.loaded, [sample])
    return int(target.family.visual_mask(target.model, ready["input_ids"]).sum())


def _given(target: Target, sample: Sample, plan: Plan | None) -> dict[str, Any]:
    """Arguments of what makes the features of a picture."""
    from saccade.models import inputs

    core: Any = target.parts.core
    features: Any = getattr(core, target.family.feature_makers(core)["image"])
    wanted, ready = inspect.signature(features).parameters, inputs(target.loaded, [sample], plan)
    given = {key: value for key, value in ready.items() if key in wanted and key != "input_ids"}
    # On older releases some stock cores hand on what their configuration says.
    settings = core.config.to_dict()
    settings = settings.get("vision_config", settings)
    needed = (name for name, one in wanted.items() if one.default is one.empty and name not in given)
    return given | {name: settings[name] for name in needed if name in settings}


def looks_at_tower(plan: Plan, num_layers: int) -> bool:
    """Whether a method of the plan wants to know what the vision tower computed."""
    looks = [stage.look for method in plan.methods for stage in method.stages(num_layers)]
    return any(look.tower is not None or look.pruned for look in looks)


def made_up(target: Target, plan: Plan, layout: Layout, device: torch.device, seed: int = 0) -> Vision:
    """What a vision tower might say of random images: views of rows in order, all numbers drawn.

    The tower is as wide as the decoder and its features need no projector: what a method does with them is
    timed, and nothing that the tower itself does.

    Args:
        target: The model whose decoder is measured.
        plan: The plan; where it merges inside the tower, as many patches are merged as its price list says.
        layout: Where the visual rows are.
        device: Where the decoder's input is.
        seed: Seed of the numbers.
    """
    shape, draw = target.shape, torch.Generator().manual_seed(seed)
    view_BN = layout.image_BN.clone()
    first = 0
    for b, images in enumerate(layout.counts):
        for image, rows in enumerate(images):
            own_N = layout.image_BN[b] == image
            count = 1 if layout.views is None else len(layout.views[b][image])
            view_BN[b, own_N] = first + torch.arange(rows) * count // rows
            first += count
    patch_BN = layout.visual_BN
    wide_BNV = torch.randn((layout.batch, layout.rows, shape.hidden), generator=draw)
    cls_TV = torch.randn((first, shape.hidden), generator=draw)
    attention_BN = torch.rand(patch_BN.shape, generator=draw) * patch_BN
    into_BN, sizes_BN = _merged(plan, layout, shape.layers)
    stages = [stage for method in plan.methods for stage in method.stages(shape.layers)]
    most = max((len(stage.look.received) for stage in stages), default=0)
    received = [torch.rand(patch_BN.shape, generator=draw) * patch_BN for _ in range(most)]
    dtype = next(target.model.parameters()).dtype
    features_BNV = (wide_BNV * patch_BN[..., None]).to(device, dtype)
    return Vision(
        patch_BN=patch_BN.to(device),
        view_BN=view_BN.to(device),
        attention_BN=attention_BN.to(device),
        single_BN=attention_BN.to(device),
        keys_BNV=features_BNV,
        heads=shape.heads,
        features_BNV=features_BNV,
        cls_TV=cls_TV.to(device, dtype),
        project=lambda features: features,
        into_BN=None if into_BN is None else into_BN.to(device),
        sizes_BN=None if sizes_BN is None else sizes_BN.to(device),
        left_BN=_left(plan, layout, shape.layers).to(device),
        received_BN=tuple(x.to(device) for x in received),
    )


def made_up_grid(layout: Layout) -> Grid:
    """Where rows would lie if every image were as square as its rows allow, on the host."""
    side_BN = torch.ones_like(layout.image_BN)
    for b, images in enumerate(layout.counts):
        for image, rows in enumerate(images):
            side_BN[b, layout.image_BN[b] == image] = isqrt(max(rows - 1, 0)) + 1
    place_BN, visual_BN = layout.place_BN.clamp(min=0), layout.visual_BN
    line_BN, column_BN = place_BN // side_BN, place_BN % side_BN
    box_BN4 = torch.stack((column_BN, line_BN, column_BN + 1, line_BN + 1), -1) / side_BN[..., None]

    def known(part_BN: torch.Tensor) -> torch.Tensor:
        return part_BN.masked_fill(~visual_BN, -1)

    planes_BN = known(torch.zeros_like(line_BN))
    return Grid(known(line_BN), known(column_BN), planes_BN, box_BN4 * visual_BN[..., None])


def _left(plan: Plan, layout: Layout, num_layers: int) -> torch.Tensor:
    """Rows that pass a tower which some leave before: the first ones of every image, as prices count."""
    left_BN = layout.visual_BN.clone()
    stages = [stage for m in plan.methods if m.tower_prune is not None for stage in m.stages(num_layers)]
    for stage in stages:
        for b, images in enumerate(layout.counts):
            for image, found in enumerate(images):
                rows = (layout.image_BN[b] == image).nonzero()[:, 0]
                left_BN[b, rows[stage.by.kept(stage, found, found, found) :]] = False
    return left_BN


def _merged(plan: Plan, layout: Layout, num_layers: int) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Where patches went that a tower has merged: round robin into the first rows of their image."""
    merging = [m for m in plan.methods if m.tower_merge is not None]
    stage = next((stage for m in merging for stage in m.stages(num_layers)), None)
    if stage is None:
        return None, None
    into_BN = torch.arange(layout.rows).expand(layout.batch, -1).clone()
    sizes_BN = torch.zeros_like(into_BN)
    for b, images in enumerate(layout.counts):
        for image, found in enumerate(images):
            rows = (layout.image_BN[b] == image).nonzero()[:, 0]
            homes = rows[: max(stage.by.kept(stage, found, found, found), 1)]
            into_BN[b, rows] = homes[torch.arange(found) % len(homes)]
            sizes_BN[b] += torch.bincount(into_BN[b, rows], minlength=layout.rows)
    return into_BN, sizes_BN
