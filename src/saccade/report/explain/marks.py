"""Which part of a picture is clear, tinted or dimmed, and in what colour (pure)."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from saccade.report.explain.stages import Box, Left, Moment, View

Kind = Literal["outside", "gone", "dropped", "merged"]

LABELS: dict[str, str] = {
    "kept": "kept",
    "merged": "merged: one colour for every row they went into, outlined at its centre",
    "dropped": "dropped at this stage",
    "gone": "dropped before",
    "outside": "in no patch",
}
"""What the marks mean, in the order of the legend."""
OPACITY = {"outside": 0.9, "gone": 0.9, "dropped": 0.66, "merged": 0.5}
DARK, LIGHT = "#18222d", "#eef2f6"
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


def slot_colours(moments: Sequence[Moment]) -> dict[int, str]:
    """A colour for every row that ever holds several patches; neighbours in number are far apart in hue."""
    colours: dict[int, str] = {}
    for moment in moments:
        for left in moment.images:
            for row in left.centres:
                if row not in colours:
                    place = len(colours)
                    lightness = (0.55, 0.42, 0.66)[place // 2 % 3]
                    rgb = colorsys.hls_to_rgb(place * 0.618034 % 1, lightness, 0.85)
                    colours[row] = "#" + "".join(f"{round(255 * part):02x}" for part in rgb)
    return colours


def veil(view: View) -> str:
    """The paint over dropped patches: dark on a bright picture, bright on a dark one."""
    return DARK if np.asarray(view.picture.convert("L")).mean() > 100 else LIGHT


def planes(view: View) -> list[int]:
    """Planes of an image that have patches."""
    return sorted(set(view.planes.values()))


def plane_name(view: View, plane: int) -> str:
    """What a plane is called; nothing where there is only one."""
    return "" if len(planes(view)) == 1 else PLANES[plane] if plane < len(PLANES) else f"plane {plane}"


def marks(view: View, left: Left, plane: int, colours: Mapping[int, str]) -> list[Mark]:
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
    parts: dict[int, list[int]] = {}
    for patch, row in left.into.items():
        parts.setdefault(row, []).append(patch)
    for row, patches in parts.items():
        centre = left.centres[row]
        at = view.boxes[centre] if view.planes[centre] == plane else None
        painted.append(Mark("merged", boxes(patches), colours[row], at))
    return [mark for mark in painted if mark.boxes or mark.centre]


def stroke_ends(boxes: Sequence[Box], wide: float, high: float) -> list[list[tuple[float, float]]]:
    """Ends of the stroke through every box, in pixels of a picture."""

    def at(box: Box, share: float) -> tuple[float, float]:
        left, top, right, bottom = box
        return (left + share * (right - left)) * wide, (bottom + share * (top - bottom)) * high

    return [[at(box, 0.3), at(box, 0.7)] for box in boxes]


def margins(boxes: Sequence[Box]) -> tuple[Box, ...]:
    """What the hull of some boxes leaves of the unit square, as up to four boxes."""
    if not boxes:
        return ()
    left, top = (min(box[side] for box in boxes) for side in (0, 1))
    right, bottom = (max(box[side] for box in boxes) for side in (2, 3))
    around = ((0, 0, 1, top), (0, bottom, 1, 1), (0, top, left, bottom), (right, top, 1, bottom))
    return tuple(box for box in around if box[2] - box[0] > 1e-4 and box[3] - box[1] > 1e-4)


def used(moments: Sequence[Moment], views: Sequence[View]) -> list[str]:
    """Kinds of marks that a picture has, in the order of the legend."""
    colours = slot_colours(moments)
    seen = {
        mark.kind
        for moment in moments
        for view, left in zip(views, moment.images, strict=True)
        for plane in planes(view)
        for mark in marks(view, left, plane, colours)
    }
    return [kind for kind in LABELS if kind == "kept" or kind in seen]
