"""The panels and the chart of the page as inline SVG (pure)."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from math import ceil

from saccade.report.explain import words
from saccade.report.explain.explained import ExplainedAnswer
from saccade.report.explain.marks import OPACITY, Line, Mark, contour, marks, stroke_ends, swatch, veil
from saccade.report.explain.stages import Box, Moment
from saccade.report.style import INK

WIDE, ASIDE, BARS, CELL = 760.0, 70.0, 120.0, 20.0
"""Width of the chart of layers, of the names at its left, height of its bars and of a cell of its strip."""


def panel(shown: ExplainedAnswer, number: int, moment: Moment, plane: int, label: str) -> str:
    """One plane of an image at one stage; the image itself is an element named ``picture-NUMBER``.

    Args:
        shown: The explanation.
        number: Which image.
        moment: The stage.
        plane: The plane.
        label: What the panel shows, in words.
    """
    view, left = shown.views[number], moment.images[number]
    wide, high = view.picture.size
    drawn = "".join(_paint(mark, wide, high) for mark in marks(view, left, plane, shown.colours))
    sides = _lines(contour(view, left, plane), wide, high)
    for colour, width in ((INK, 2.5), ("#fff", 1.2)) if sides else ():
        drawn += f'<path d="{sides}" {_pen(colour, width)} stroke-linecap="square"/>'
    if not moment.method:
        boxes = [box for patch in view.patches if view.planes[patch] == plane and (box := view.boxes[patch])]
        drawn += f'<path d="{_boxes(boxes, wide, high)}" {_pen(veil(view), 1)} stroke-opacity=".4"/>'
    use = f'<use href="#picture-{number}"/>'
    name = escape(label, quote=True)
    return f'<svg viewBox="0 0 {wide} {high}" role="img" aria-label="{name}">{use}{drawn}</svg>'


def sample(mark: Mark | None, paint: str) -> str:
    """A mark for the legend, over what stands for a picture that is painted so."""
    ground = f'<path d="M0 0H10V10H0Z" fill="{swatch(paint)}"/>'
    drawn = "" if mark is None else _paint(mark, 10, 10)
    return f'<svg viewBox="0 0 10 10" aria-hidden="true">{ground}{drawn}</svg>'


def chart(shown: ExplainedAnswer) -> str:
    """Bars of the visual rows alive in every layer; under them, what those rows do."""
    alive, depth = shown.alive, len(shown.alive)
    step, top = (WIDE - ASIDE) / depth, max(*shown.alive, shown.full, 1)
    gap, floor, under = min(6.0, 0.2 * step), 20 + BARS, 32 + BARS
    # Labels that would touch are left out.
    told, every = words.steps(alive, ceil((8 * len(str(top)) + 4) / step)), ceil(depth / 16)
    drawn = [f'<path class="full" d="M{ASIDE:g} 20H{WIDE:g}"/>']
    if shown.full != alive[0]:
        drawn.append(_text(ASIDE - 8, 24, str(shown.full), end=True))
    for layer, count in enumerate(alive):
        x, tall = ASIDE + step * layer, BARS * count / top
        side = f'x="{_n(x + gap / 2)}" width="{_n(step - gap)}"'
        drawn.append(f'<rect class="bar" {side} y="{_n(floor - tall)}" height="{_n(tall)}"/>')
        if layer in told:
            drawn.append(_text(x + step / 2, floor - tall - 6, str(count)))
        if layer % every == 0:
            drawn.append(_text(x + step / 2, under + 2 * (CELL + 4) + 12, str(layer), "quiet"))
        for line, name in enumerate(("attention", "ffn")):
            share = shown.active[name][layer]
            look = 'class="cell none"'
            if count:
                look = f'class="cell" fill-opacity="{0.12 + 0.75 * share if share else 0:.2f}"'
            drawn.append(f'<rect {look} {side} y="{_n(under + line * (CELL + 4))}" height="{CELL:g}"/>')
    for line, name in enumerate(("attention", "FFN")):
        drawn.append(_text(ASIDE - 8, under + line * (CELL + 4) + 15, name, end=True))
    drawn.append(_text(ASIDE - 8, floor, "rows alive", "quiet", end=True))
    counts = ", ".join(f"{alive[n]} from layer {n}" for n in words.steps(alive))
    label = escape(f"Visual rows alive: {counts}. {words.skipping(shown)}.", quote=True)
    box = f"0 0 {WIDE:g} {under + 2 * (CELL + 4) + 20:g}"
    return f'<svg class="layers" viewBox="{box}" role="img" aria-label="{label}">{"".join(drawn)}</svg>'


def _paint(mark: Mark, wide: float, high: float) -> str:
    look = f'fill="{mark.colour}" fill-opacity="{OPACITY[mark.kind]}"'
    drawn = f'<path d="{_boxes(mark.boxes, wide, high)}" {look}/>'
    if mark.kind == "dropped":
        # Not by brightness alone: a stroke through every patch.
        drawn += f'<path d="{_lines(stroke_ends(mark.boxes), wide, high)}" {_pen("#9aa7b4", 1)}/>'
    if mark.centre:
        outline = _boxes((mark.centre,), wide, high)
        for colour, width in (("#fff", 4), (mark.colour, 2)):
            drawn += f'<path d="{outline}" {_pen(colour, width)}/>'
    return drawn


def _pen(colour: str, width: float) -> str:
    return f'fill="none" stroke="{colour}" stroke-width="{width}" vector-effect="non-scaling-stroke"'


def _boxes(boxes: Iterable[Box], wide: float, high: float) -> str:
    corners = ((_n(a * wide), _n(b * high), _n(c * wide), _n(d * high)) for a, b, c, d in boxes)
    return "".join(f"M{a} {b}H{c}V{d}H{a}Z" for a, b, c, d in corners)


def _lines(lines: Iterable[Line], wide: float, high: float) -> str:
    return "".join(
        f"M{_n(a * wide)} {_n(b * high)}L{_n(c * wide)} {_n(d * high)}" for (a, b), (c, d) in lines
    )


def _text(x: float, y: float, text: str, kind: str = "", end: bool = False) -> str:
    look = f'text-anchor="{"end" if end else "middle"}"' + (f' class="{kind}"' if kind else "")
    return f'<text x="{_n(x)}" y="{_n(y)}" {look}>{text}</text>'


def _n(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
