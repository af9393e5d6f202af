"""The explanation as one PNG figure: panels over the image, then what runs in every layer (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import ceil

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from saccade.report import style
from saccade.report.explain import words
from saccade.report.explain.explained import ExplainedAnswer
from saccade.report.explain.marks import (
    OPACITY,
    Line,
    Mark,
    contour,
    legend,
    marks,
    plane_name,
    planes,
    stroke_ends,
    swatch,
    veil,
)
from saccade.report.explain.sheet import Sheet, measure
from saccade.report.explain.stages import Box, Moment, View, caption
from saccade.report.route_map import RIGHT, WRONG
from saccade.report.style import INK, MUTED, pictured

WIDTH, EDGE, GAP = 9.2, 0.32, 0.2
INNER = WIDTH - 2 * EDGE
TALLEST = 3.4
AXIS = 0.75
"""Room for the labels of an axis."""
BLUE = "#0067b1"


@pictured
def draw(shown: ExplainedAnswer) -> Figure:
    """Question, answers and cost; a row of panels for every image; visual rows alive in every layer."""
    sheet = Sheet(WIDTH)
    y = _head(sheet, shown, EDGE) + 0.12
    if len(shown.moments) > 1:
        y = _legend(sheet, shown, y) + 0.16
    for number, view in enumerate(shown.views):
        if len(shown.views) > 1:
            y += sheet.text(EDGE, y, f"image {number + 1}", INNER, 10, fontweight="bold") + 0.05
        y = _panels(sheet, shown, number, view, y)
    return sheet.figure(_layers(sheet, shown, y + 0.1) + EDGE)


def _head(sheet: Sheet, shown: ExplainedAnswer, y: float) -> float:
    y += sheet.text(EDGE, y, shown.question, INNER, 13, lines=3, fontweight="bold") + 0.04
    for name, title in (("dense", "stock model: "), ("planned", "with the plan: ")):
        tone = INK if name == "dense" else RIGHT if shown.same else WRONG
        said = words.said(shown.answers[name]) + (words.verdict(shown) if name == "planned" else "")
        y += sheet.text(EDGE, y, title + said, INNER, 9.5, lines=3, color=tone)
    y += 0.04
    return y + sheet.text(EDGE, y, words.summary(shown), INNER, 8.5, color=MUTED)


def _legend(sheet: Sheet, shown: ExplainedAnswer, y: float) -> float:
    x, size, ground = EDGE, 0.15, swatch(veil(shown.views[0]))
    for label, mark in legend(shown.moments, shown.views):
        long = size + 0.07 + measure(label, 8)
        if x + long > WIDTH - EDGE and x > EDGE:
            x, y = EDGE, y + 0.22
        sheet.axes(x, y, size, size, partial(_sample, mark=mark, ground=ground))
        sheet.text(x + size + 0.07, y, label, INNER, 8, lines=1)
        x += long + 0.3
    return y + 0.2


def _sample(axes: Axes, mark: Mark | None, ground: str) -> None:
    style.bare(axes)
    axes.set_xlim(0, 1)
    axes.set_ylim(1, 0)
    axes.add_patch(Rectangle((0, 0), 1, 1, facecolor=ground, edgecolor=MUTED, linewidth=0.8))
    if mark is not None:
        _paint(axes, mark, 1, 1)


def _panels(sheet: Sheet, shown: ExplainedAnswer, number: int, view: View, y: float) -> float:
    """Panels of one image from left to right, in as many lines as they need."""
    cells = [(moment, plane) for moment in shown.moments for plane in planes(view)]
    wide = len(planes(view)) > 1
    columns = 4 if wide else _columns(len(cells))
    width = (INNER - GAP * (columns - 1)) / columns
    aspect = view.picture.height / view.picture.width
    tall = min(width * aspect, TALLEST)
    for start in range(0, len(cells), columns):
        line = cells[start : start + columns]
        below = 0.0
        for place, (moment, plane) in enumerate(line):
            x = EDGE + place * (width + GAP)
            name = plane_name(view, plane)
            first = plane == planes(view)[0]
            head = moment.where if first else ""
            sheet.text(x, y, head, 2 * width if wide else width, 9, lines=1, fontweight="bold")
            paint = partial(_panel, shown=shown, number=number, moment=moment, plane=plane)
            sheet.axes(x, y + 0.2, width, tall, paint)
            under = y + 0.2 + tall + 0.06
            if name:
                under += sheet.text(x, under, name, width, 8, color=MUTED)
            if first:
                room = width * len(planes(view)) + GAP * (len(planes(view)) - 1)
                under += sheet.text(x, under, caption(moment, moment.images[number]), room, 8)
            below = max(below, under)
        y = below + 0.16
    return y


def _columns(cells: int) -> int:
    """How many panels stand beside each other, so that lines are full."""
    if cells <= 4:
        return max(cells, 2)
    return 3 if cells in (5, 6, 9) else 4


def _panel(axes: Axes, shown: ExplainedAnswer, number: int, moment: Moment, plane: int) -> None:
    view, left = shown.views[number], moment.images[number]
    picture = np.asarray(view.picture)
    high, wide = picture.shape[:2]
    axes.imshow(picture, extent=(0, wide, high, 0), interpolation="nearest" if wide < 200 else "antialiased")
    axes.set_anchor("NW")
    style.bare(axes)
    for mark in marks(view, left, plane, shown.colours):
        _paint(axes, mark, wide, high)
    sides = _pixels(contour(view, left, plane), wide, high)
    for colour, line in ((INK, 1.1), ("white", 0.6)):
        axes.add_collection(LineCollection(sides, colors=colour, linewidths=line, capstyle="projecting"))
    if not moment.method:
        boxes = [view.boxes[patch] for patch in view.patches if view.planes[patch] == plane]
        grid = PolyCollection([_corners(b, wide, high) for b in boxes if b], facecolors="none")
        grid.set(edgecolors=veil(view), linewidths=0.3, alpha=0.35)
        axes.add_collection(grid)
    axes.set_xlim(0, wide)
    axes.set_ylim(high, 0)


def _paint(axes: Axes, mark: Mark, wide: float, high: float) -> None:
    corners = [_corners(box, wide, high) for box in mark.boxes]
    area = PolyCollection(corners, facecolors=mark.colour, linewidths=0, antialiased=False)
    area.set(alpha=OPACITY[mark.kind])
    axes.add_collection(area)
    if mark.kind == "dropped":
        # Not by brightness alone: a stroke through every patch.
        strokes = _pixels(stroke_ends(mark.boxes), wide, high)
        axes.add_collection(LineCollection(strokes, colors="#9aa7b4", linewidths=0.4, alpha=0.8))
    if mark.centre:
        for colour, line in (("white", 1.8), (mark.colour, 0.9)):
            outline = PolyCollection([_corners(mark.centre, wide, high)], facecolors="none")
            outline.set(edgecolors=colour, linewidths=line)
            axes.add_collection(outline)


def _pixels(lines: Sequence[Line], wide: float, high: float) -> list[list[tuple[float, float]]]:
    return [[(x * wide, y * high) for x, y in line] for line in lines]


def _corners(box: Box, wide: float, high: float) -> list[tuple[float, float]]:
    left, top, right, bottom = box[0] * wide, box[1] * high, box[2] * wide, box[3] * high
    return [(left, bottom), (left, top), (right, top), (right, bottom)]


def _layers(sheet: Sheet, shown: ExplainedAnswer, y: float) -> float:
    """Bars of the visual rows alive in every layer; under them, what those rows do."""
    left, width = EDGE + AXIS, INNER - AXIS
    y += sheet.text(EDGE, y, "visual rows alive in every layer", INNER, 9, fontweight="bold") + 0.02
    y += sheet.text(EDGE, y, words.skipping(shown), INNER, 8, color=MUTED) + 0.12
    sheet.axes(left, y, width, 1.0, partial(_bars, alive=shown.alive, full=shown.full))
    y += 1.06
    sheet.axes(left, y, width, 0.42, partial(_strip, shown=shown))
    return y + 0.42 + 0.34


def _bars(axes: Axes, alive: Sequence[int], full: int) -> None:
    axes.bar(range(len(alive)), alive, width=0.86, color=BLUE, alpha=0.75, linewidth=0)
    style.tidy(axes)
    style.layer_axis(axes, len(alive))
    top = max(*alive, full, 1)
    axes.set_ylim(0, top * 1.16)
    axes.tick_params(labelbottom=False, bottom=False, labelsize=8)
    axes.set_yticks([0, full])
    axes.axhline(full, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
    # Labels that would touch are left out.
    apart = ceil((measure(str(top), 8) + 0.04) * len(alive) / (INNER - AXIS))
    for layer in words.steps(alive, apart):
        place = alive[layer] + top * 0.02
        axes.text(layer, place, str(alive[layer]), ha="center", va="bottom", fontsize=8, color=INK)


def _strip(axes: Axes, shown: ExplainedAnswer) -> None:
    """One cell a layer: filled where rows do something, hollow where they skip it, dotted where none is."""
    for line, name in enumerate(("attention", "ffn")):
        for layer, (share, alive) in enumerate(zip(shown.active[name], shown.alive, strict=True)):
            cell = Rectangle((layer - 0.43, line + 0.1), 0.86, 0.8, linewidth=0.7)
            cell.set_edgecolor(BLUE if alive else MUTED)
            cell.set_facecolor((0.0, 0.404, 0.694, 0.12 + 0.7 * share) if share else "white")
            cell.set_linestyle("-" if alive else ":")
            axes.add_patch(cell)
    style.layer_axis(axes, len(shown.alive))
    axes.set_ylim(2, 0)
    axes.set_yticks([0.5, 1.5], ["attention", "FFN"], fontsize=8)
    axes.tick_params(length=0, axis="y")
    axes.tick_params(labelsize=8, axis="x", length=2)
    axes.spines[:].set_visible(False)
    axes.set_xlabel(words.STRIP, fontsize=8, color=MUTED, labelpad=2)
