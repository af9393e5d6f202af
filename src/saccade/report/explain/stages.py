"""What every stage of a plan kept, merged and dropped of every image, read from a trace (pure)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL.Image import Image

from saccade.engine.trace import Cut, Trace
from saccade.plan import Plan

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in the picture, each 0 to 1."""
Made = dict[int, dict[int, float]]
"""For every row that is alive: the original rows it is made of, with their weights."""


@dataclass(frozen=True, eq=False)
class View:
    """An image as the model saw it, and where its rows lie in it.

    Attributes:
        picture: What the model saw, RGB.
        boxes: Of every visual row of the image, by its number in the prompt: where its patch is, or None where
            the row is no patch (newline rows).
        planes: Of every row that is a patch: its plane (0: the whole picture, 1: the tiles together).
    """

    picture: Image
    boxes: Mapping[int, Box | None]
    planes: Mapping[int, int]

    @property
    def patches(self) -> list[int]:
        """Rows that are patches."""
        return list(self.planes)


@dataclass(frozen=True, eq=False)
class Left:
    """What a stage left of one image. Patches are named by their row in the prompt.

    Attributes:
        found: Rows that were alive when the stage was reached; of what the model saw: those without the plan.
        found_patches: Patches that some row held then.
        found_others: Rows then that held no patch.
        made: Rows that are alive now, and what they are made of.
        kept: Patches that a row holds unmixed.
        into: Merged patches, each with the row that holds most of it.
        centres: Rows that hold several patches, each with the patch it is drawn at.
        dropped: Patches that no row holds any more since this stage.
        gone: Patches that were dropped before.
        others: Rows that are alive and hold no patch: newlines, or rows made of something else.
    """

    found: int
    found_patches: int
    found_others: int
    made: Made
    kept: tuple[int, ...]
    into: Mapping[int, int]
    centres: Mapping[int, int]
    dropped: tuple[int, ...]
    gone: tuple[int, ...]
    others: int

    @property
    def counts(self) -> dict[str, int]:
        """Rows found and left, and what became of the patches."""
        return {
            "found": self.found,
            "left": len(self.made),
            "patches_kept": len(self.kept),
            "patches_merged": len(self.into),
            "merged_rows": len(self.centres),
            "patches_dropped": len(self.dropped),
            "patches_gone_before": len(self.gone),
            "others_found": self.found_others,
            "others_left": self.others,
        }

    def to_dict(self, view: View) -> dict[str, Any]:
        """Plain dictionary for JSON; boxes stand in the order of ``kept``, null where a row holds no patch."""
        held = {row: _patch_of(weights, row, view) for row, weights in self.made.items()}
        return {
            "counts": self.counts,
            "kept": list(self.made),
            "boxes": [None if patch is None else view.boxes[patch] for patch in held.values()],
            "merged": {str(row): list(self.made[row].items()) for row in self.made if len(self.made[row]) > 1},
        }


@dataclass(frozen=True, eq=False)
class Moment:
    """One stage of a plan, or, without a method, what the model saw.

    Attributes:
        before: First layer that runs with what is left.
        method: Spec of the method that decided; empty before any did.
        images: What is left of every image.
    """

    before: int
    method: str
    images: tuple[Left, ...]

    @property
    def where(self) -> str:
        """The boundary, in words."""
        if not self.method:
            return "what the model saw"
        return f"before layer {self.before}" if self.before else "before the decoder"


def views(trace: Trace, pictures: Sequence[Image]) -> tuple[View, ...]:
    """The images of a trace of one sample.

    Args:
        trace: What a forward did.
        pictures: What the model saw of each image (``Family.seen``).

    Raises:
        ValueError: If the trace does not know where the rows lie, or is of several samples or other images.
    """
    grid, layout = trace.grid, trace.layout
    if layout.batch != 1:
        raise ValueError(f"one sample is explained at a time, the trace is of {layout.batch}")
    if grid is None:
        raise ValueError("this forward does not say where its visual rows lie; give the model pixels")
    counts = layout.counts[0]
    if len(counts) != len(pictures):
        raise ValueError(f"the prompt has rows of {len(counts)} images, but {len(pictures)} pictures are given")
    found = []
    for number, picture in enumerate(pictures):
        rows = (layout.image_BN[0] == number).nonzero()[:, 0].tolist()
        lies = dict(zip(rows, grid.plane_BN[0, rows].tolist(), strict=True))
        planes = {row: plane for row, plane in lies.items() if plane >= 0}
        corners = zip(rows, grid.box_BN4[0, rows].tolist(), strict=True)
        found.append(View(picture, {row: _box(box) if row in planes else None for row, box in corners}, planes))
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


def caption(moment: Moment, left: Left) -> str:
    """What a stage left of an image, in words, without the boundary."""
    others = left.found_others
    if not moment.method:
        shorter = f", of {left.found} rows at full resolution" if left.found != len(left.made) else ""
        rest = f" and {_plural(others, 'newline or other row')}" if others else ""
        return f"{_plural(len(left.kept), 'patch')}{rest}{shorter}"
    if left.into or left.found != left.found_patches + others:
        parts = [f"{_plural(len(left.kept), 'patch')} kept"] if left.kept else []
        if left.into:
            parts.append(f"{_plural(len(left.into), 'patch')} merged into {_plural(len(left.centres), 'row')}")
        if left.dropped:
            parts.append(f"{_plural(len(left.dropped), 'patch')} dropped")
        return f"{len(left.made)} of {left.found} rows left by {moment.method}: {', '.join(parts) or 'no patch'}"
    text = f"{len(left.kept)} of {_plural(left.found_patches, 'patch')} kept by {moment.method}"
    return f"{text}; {left.others} of {_plural(others, 'newline or other row')} kept" if others else text


def _steps(trace: Trace, plan: Plan, made: Made) -> Iterator[tuple[int, str, Made]]:
    """Stages in the order they are reached; a method that drops rows at a layer without looking is one too."""
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
    kept = {patch for weights in made.values() if len(weights) == 1 for patch in weights if patch in view.planes}
    centres: dict[int, int] = {}
    most: dict[int, tuple[float, int]] = {}
    for row, weights in made.items():
        parts = {patch: weight for patch, weight in weights.items() if patch in view.planes}
        centre = _patch_of(weights, row, view)
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
        found_others=sum(_patch_of(weights, row, view) is None for row, weights in was.items()),
        made=made,
        kept=tuple(sorted(kept)),
        into=into,
        centres=centres,
        dropped=tuple(patch for patch in lost if patch in held),
        gone=tuple(patch for patch in lost if patch not in held),
        others=sum(_patch_of(weights, row, view) is None for row, weights in made.items()),
    )


def _patch_of(weights: Mapping[int, float], row: int, view: View) -> int | None:
    """The patch that a row is most made of, itself where several are level; None if of none."""
    parts = [(weight, patch == row, -patch) for patch, weight in weights.items() if patch in view.planes]
    return -max(parts)[2] if parts else None


def _box(box: Sequence[float]) -> Box:
    left, top, right, bottom = (round(side, 6) for side in box)
    return left, top, right, bottom


def _plural(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}{'es' if what.endswith('ch') else 's'}"
