"""Which part of a picture is clear, tinted or dimmed, and in what colour (pure)."""

from __future__ import annotations

import colorsys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from saccade.report.explain.stages import Box, Left, Moment, View

Kind = Literal["outside", "gone", "dropped", "merged"]

Line = tuple[tuple[float, float], tuple[float, float]]
"""Two points of the picture, each side of which counts 1."""

LABELS: dict[Kind, str] = {
    "merged": "merged: one colour for every row they went into, outlined at its centre",
    "dropped": "dropped at this stage",
    "gone": "dropped before",
    "outside": "in no patch",
}
"""What the marks mean, in the order of the legend."""
OPACITY = {"outside": 0.9, "gone": 0.9, "dropped": 0.66, "merged": 0.5}
DARK, LIGHT, SAMPLE = "#18222d", "#eef2f6", "#f08a24"
"""Paint over a bright picture and over a dark one, and of merged patches in the legend."""
PLANES = ("whole picture", "tiles")


@dataclass(frozen=True)
class Mark:
    """Boxes that are painted alike.

    Attributes:
        kind: What became of these patches.
        boxes: Where they are.
        colour: Paint.
        centre: Box to outline, for merged patches whose row is drawn there.
    """

    kind: Kind
    boxes: tuple[Box, ...]
    colour: str
    centre: Box | None = None


Slot = tuple[int, int]
"""A row that holds several patches, by the patch it is drawn at, and which of those that are drawn there."""


def slots(left: Left) -> dict[int, Slot]:
    """Rows that hold several patches, by names that last when rows are packed anew."""
    seen: Counter[int] = Counter()
    found = {}
    for row, centre in left.centres.items():
        found[row] = (centre, seen[centre])
        seen[centre] += 1
    return found


def slot_colours(moments: Sequence[Moment]) -> dict[Slot, str]:
    """A colour for every row that ever holds several patches; neighbours in order are far apart in hue."""
    colours: dict[Slot, str] = {}
    for slot in (slot for moment in moments for left in moment.images for slot in slots(left).values()):
        place = len(colours)
        lightness = (0.55, 0.42, 0.66)[place // 2 % 3]
        rgb = colorsys.hls_to_rgb(place * 0.618034 % 1, lightness, 0.85)
        colours.setdefault(slot, "#" + "".join(f"{round(255 * part):02x}" for part in rgb))
    return colours


def veil(view: View) -> str:
    """The paint over dropped patches: dark on a bright picture, bright on a dark one."""
    return DARK if np.asarray(view.picture.convert("L")).mean() > 60 else LIGHT


def swatch(paint: str) -> str:
    """What stands for the picture in the legend."""
    return "#cfe0ee" if paint == DARK else "#46627d"


def planes(view: View) -> list[int]:
    """Planes of an image that have patches."""
    return sorted(set(view.planes.values()))


def plane_name(view: View, plane: int) -> str:
    """What a plane is called; nothing where there is only one."""
    return "" if len(planes(view)) == 1 else PLANES[plane] if plane < len(PLANES) else f"plane {plane}"


def marks(view: View, left: Left, plane: int, colours: Mapping[Slot, str]) -> list[Mark]:
    """What is painted over one plane of an image, lowest first; what is kept stays clear."""

    def boxes(patches: Iterable[int]) -> tuple[Box, ...]:
        found = (view.boxes[patch] for patch in patches if view.planes[patch] == plane)
        return tuple(box for box in found if box is not None)

    paint = veil(view)
    painted = [
        Mark("outside", margins(boxes(view.patches)), paint),
        Mark("gone", boxes(left.gone), paint),
        Mark("dropped", boxes(left.dropped), paint),
    ]
    parts: dict[int, list[int]] = {row: [] for row in left.centres}
    for patch, row in left.into.items():
        parts[row].append(patch)
    for row, slot in slots(left).items():
        at = view.boxes[slot[0]] if view.planes[slot[0]] == plane else None
        painted.append(Mark("merged", boxes(parts[row]), colours[slot], at))
    return [mark for mark in painted if mark.boxes or mark.centre]


def stroke_ends(boxes: Sequence[Box]) -> list[Line]:
    """Ends of the stroke through every box."""

    def at(box: Box, share: float) -> tuple[float, float]:
        left, top, right, bottom = box
        return left + share * (right - left), bottom + share * (top - bottom)

    return [(at(box, 0.3), at(box, 0.7)) for box in boxes]


def contour(view: View, left: Left, plane: int) -> list[Line]:
    """The line around what is kept or merged: sides of patches that have none of these beyond them."""
    sides: Counter[Line] = Counter()
    for patch in (*left.kept, *left.into):
        box = view.boxes[patch]
        if box is not None and view.planes[patch] == plane:
            x, y, right, bottom = box
            corners = ((x, y), (right, y), (right, bottom), (x, bottom))
            sides.update(((corners[a], corners[b]) for a, b in ((0, 1), (3, 2), (0, 3), (1, 2))))
    lost = bool(left.dropped or left.gone)
    return [side for side, times in sides.items() if times == 1 and lost]


def margins(boxes: Sequence[Box]) -> tuple[Box, ...]:
    """What the hull of some boxes leaves of the unit square, as up to four boxes."""
    if not boxes:
        return ()
    left, top = (min(box[side] for box in boxes) for side in (0, 1))
    right, bottom = (max(box[side] for box in boxes) for side in (2, 3))
    around = ((0, 0, 1, top), (0, bottom, 1, 1), (0, top, left, bottom), (right, top, 1, bottom))
    return tuple(box for box in around if box[2] - box[0] > 1e-4 and box[3] - box[1] > 1e-4)


def legend(moments: Sequence[Moment], views: Sequence[View]) -> list[tuple[str, Mark | None]]:
    """What the marks of a picture mean, each with an example; None where nothing is painted."""
    colours, seen = slot_colours(moments), set[str]()
    for moment in moments:
        for view, left in zip(views, moment.images, strict=True):
            seen |= {mark.kind for plane in planes(view) for mark in marks(view, left, plane, colours)}
    found: list[tuple[str, Mark | None]] = [("kept", None)]
    for kind, label in LABELS.items():
        if kind in seen:
            found.append((label, Mark(kind, ((0, 0, 1, 1),), SAMPLE if kind == "merged" else veil(views[0]))))
    return found
