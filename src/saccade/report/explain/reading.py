"""From a trace to what every stage left (pure)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from PIL.Image import Image

from saccade.engine.trace import Cut, Trace
from saccade.plans.plan import Plan
from saccade.report.explain.stages import Box, Left, Made, Moment, View, patch_of

WHOLE = (0.0, 0.0, 1.0, 1.0)
"""All of a picture."""


def views(trace: Trace, pictures: Sequence[Image], crops: Sequence[Sequence[Box]] = ()) -> tuple[View, ...]:
    """The images of a trace of one sample.

    Args:
        trace: What a forward did.
        pictures: What the model saw of each image (``Family.seen``).
        crops: What each plane of each image shows of it (``Family.crops``); all of it where nothing is said.

    Raises:
        ValueError: If the trace does not know where the rows lie, is of several samples or other images, or
            the crops are of another picture.
    """
    grid, layout = trace.grid, trace.layout
    if layout.batch != 1:
        raise ValueError(f"one sample is explained at a time, the trace is of {layout.batch}")
    if grid is None:
        raise ValueError("this forward does not say where its visual rows lie; give the model pixels")
    counts = layout.counts[0]
    if len(counts) != len(pictures):
        given = len(pictures)
        raise ValueError(f"the prompt has rows of {len(counts)} images, but {given} pictures are given")
    found = []
    for number, picture in enumerate(pictures):
        rows = (layout.image_BN[0] == number).nonzero()[:, 0].tolist()
        parts = crops[number] if crops else ()
        lies = dict(zip(rows, grid.plane_BN[0, rows].tolist(), strict=True))
        planes = {row: plane for row, plane in lies.items() if plane >= 0}
        if parts and max(planes.values(), default=0) >= len(parts):
            raise ValueError(f"image {number} has more planes than crops; give the crops of what was shown")
        corners = zip(rows, grid.box_BN4[0, rows].tolist(), strict=True)
        boxes = {row: _box(box, parts, lies[row]) if row in planes else None for row, box in corners}
        if parts:
            # Tiles that are planes of their own are drawn on one, beside the whole; frames on one alone.
            most = int(tuple(parts[0]) == WHOLE)
            planes = {row: min(plane, most) for row, plane in planes.items()}
        found.append(View(picture, boxes, planes))
    return tuple(found)


def moments(
    trace: Trace, plan: Plan, seen: Sequence[View], full: Sequence[int] | None = None
) -> tuple[Moment, ...]:
    """What the model saw, then what every stage left of it, in order.

    Args:
        trace: What a forward under the plan did.
        plan: The plan as it ran, layers resolved.
        seen: The images, as ``views`` gives them.
        full: Rows of every image without the plan, where it makes the prompt itself shorter.
    """
    made: Made = {row: {row: 1.0} for view in seen for row in view.boxes}
    start = _moment(0, "", seen, made, made)
    if full is not None:
        pairs = zip(start.images, full, strict=True)
        start = replace(start, images=tuple(replace(left, found=rows) for left, rows in pairs))
    found = [start]
    for before, method, after in _steps(trace, plan, made):
        found.append(_moment(before, method, seen, made, after))
        made = after
    return tuple(found)


def _steps(trace: Trace, plan: Plan, made: Made) -> Iterator[tuple[int, str, Made]]:
    """Stages in the order they are reached; where a method drops rows without looking is one too."""
    layout, depth = trace.layout, len(trace.route.layers)
    program = plan.program(layout, depth)
    routes = [(str(m), m.route(layout, depth)) for m in plan.methods]
    cuts = list(trace.cuts)
    for number, layer in enumerate(program.route.layers):
        stays_N = layer.alive_BN[0]
        if not all(stays_N[row] for row in made):
            by = [name for name, r in routes if not all(r.layers[number].alive_BN[0, row] for row in made)]
            made = {row: weights for row, weights in made.items() if stays_N[row]}
            yield number, "+".join(by), made
        for stage in (s for s in program.stages if s.before == number):
            # A stage that keeps all it finds leaves no cut.
            if cuts and (cuts[0].before, cuts[0].method) == (number, str(stage.by)):
                made = _after(cuts.pop(0), made)
            yield number, str(stage.by), made


def _after(cut: Cut, made: Made) -> Made:
    """What rows are made of after a cut."""
    found: Made = {}
    for row in cut.alive_BN[0].nonzero()[:, 0].tolist():
        if cut.sources_BNN is None or not cut.rows_BN[0, row]:
            found[row] = made[row]
            continue
        weights_N, mixed = cut.sources_BNN[0, row], dict[int, float]()
        for part in weights_N.nonzero()[:, 0].tolist():
            for patch, weight in made.get(part, {}).items():
                mixed[patch] = mixed.get(patch, 0.0) + float(weights_N[part]) * weight
        found[row] = mixed
    return found


def _moment(before: int, method: str, seen: Sequence[View], made: Made, after: Made) -> Moment:
    return Moment(before, method, tuple(_left(view, made, after) for view in seen))


def _left(view: View, before: Made, after: Made) -> Left:
    made = {row: after[row] for row in view.boxes if row in after}
    was = {row: before[row] for row in view.boxes if row in before}
    held = {patch for weights in was.values() for patch in weights if patch in view.planes}
    alone = {patch for weights in made.values() if len(weights) == 1 for patch in weights}
    kept = alone & set(view.planes)
    centres: dict[int, int] = {}
    most: dict[int, tuple[float, int]] = {}
    for row, weights in made.items():
        parts = {patch: weight for patch, weight in weights.items() if patch in view.planes}
        centre = patch_of(weights, row, view)
        if len(weights) < 2 or centre is None:
            continue
        centres[row] = centre
        for patch, weight in parts.items():
            # A row's own centre counts as its own, however much of it others hold.
            share = float("inf") if patch == centre else weight
            if patch not in kept and share > most.get(patch, (float("-inf"), 0))[0]:
                most[patch] = (share, row)
    into = {patch: row for patch, (_, row) in sorted(most.items())}
    lost = [patch for patch in view.patches if patch not in kept and patch not in into]
    return Left(
        found=len(was),
        found_patches=len(held),
        found_others=sum(patch_of(weights, row, view) is None for row, weights in was.items()),
        made=made,
        kept=tuple(sorted(kept)),
        into=into,
        centres=centres,
        dropped=tuple(patch for patch in lost if patch in held),
        gone=tuple(patch for patch in lost if patch not in held),
        others=sum(patch_of(weights, row, view) is None for row, weights in made.items()),
    )


def _box(box: Sequence[float], parts: Sequence[Box], plane: int) -> Box:
    """A box in the picture, of one in what its plane shows of it."""
    x, y, end, low = parts[plane] if parts else WHOLE
    sides = (x + box[0] * (end - x), y + box[1] * (low - y), x + box[2] * (end - x), y + box[3] * (low - y))
    left, top, right, bottom = (round(side, 6) for side in sides)
    return left, top, right, bottom
