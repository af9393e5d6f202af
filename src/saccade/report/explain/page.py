"""The explanation as one web page: nothing fetched, no script, readable with a keyboard and read aloud (pure)."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING

from PIL.Image import Image

from saccade.report.explain import words
from saccade.report.explain.marks import (
    LABELS,
    OPACITY,
    Mark,
    marks,
    plane_name,
    planes,
    stroke_ends,
    used,
    veil,
)
from saccade.report.explain.stages import Box, Left, Moment, View, caption
from saccade.report.text import percent

if TYPE_CHECKING:
    from saccade.report.explain.api import Explanation

SAMPLE = "#f08a24"
LARGEST = 1024
"""Longest side of an image in the page, in pixels; marks are drawn as vectors over it."""
STEP, BARS, CELL = 40.0, 130.0, 22.0
"""Width of a layer in the chart, height of its bars and of a cell of its strip."""


def render(shown: Explanation) -> str:
    """The page."""
    css = "\n".join(
        files(room).joinpath("page.css").read_text(encoding="utf-8")
        for room in ("saccade.report", "saccade.report.explain")
    )
    css += "".join(f"#stage-{n}:checked ~ .stage-{n} {{ display: block; }}\n" for n in range(len(shown.moments)))
    title = f"Saccade explains: {shown.question}"
    body = "\n".join((_head(shown), _pictures(shown), _stages(shown), _layers(shown), _numbers(shown)))
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{css}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n"
        f"</body>\n</html>\n"
    )


def _head(shown: Explanation) -> str:
    same = shown.answers["dense"] == shown.answers["planned"]
    verdict = f'<span class="{"same" if same else "differ"}">{words.verdict(shown).strip(" ()")}</span>'
    cost = shown.cost
    says = (
        ("stock model says", escape(words.said(shown.answers["dense"])), "every visual row in every layer"),
        ("with the plan", escape(words.said(shown.answers["planned"])), verdict),
    )
    costs = (
        ("FLOPs", percent(cost["ratio"]), "of the dense decoder prefill, the papers' count"),
        ("KV cache", percent(cost["kv_ratio"]), "of the dense one after the prompt"),
        ("visual rows", f"{cost['equivalent_tokens']:.1f}", f"of {shown.full} alive in the mean layer"),
    )
    return (
        f'<header><p class="eyebrow">saccade explain</p><h1>{escape(shown.question)}</h1>'
        f'<p class="lead">{escape(shown.model)} under <code>{escape(shown.plan or "no plan")}</code></p>'
        f'<div class="cards says">{_cards(says)}</div><div class="cards">{_cards(costs)}</div></header>'
    )


def _cards(cards: Iterable[tuple[str, str, str]]) -> str:
    return "".join(
        f'<div class="card"><span>{name}</span><b>{value}</b><small>{note}</small></div>'
        for name, value, note in cards
    )


def _pictures(shown: Explanation) -> str:
    """Every image once; the panels refer to it."""
    each = "".join(
        f'<image id="picture-{n}" width="{v.picture.width}" height="{v.picture.height}" '
        f'preserveAspectRatio="none"{_pixels(v)} href="{_data(v.picture)}"/>'
        for n, v in enumerate(shown.views)
    )
    return f'<svg class="shared" width="0" height="0" aria-hidden="true"><defs>{each}</defs></svg>'


def _stages(shown: Explanation) -> str:
    choose = "".join(
        f'<input type="radio" name="stage" id="stage-{n}"{" checked" if n == len(shown.moments) - 1 else ""}>'
        f'<label for="stage-{n}">{escape(_tab(moment))}</label>'
        for n, moment in enumerate(shown.moments)
    )
    panels = "".join(_stage(shown, n, moment) for n, moment in enumerate(shown.moments))
    note = "Choose a stage; with a keyboard, use the arrow keys."
    viewer = f'<fieldset class="viewer"><legend>{note}</legend>{choose}{panels}</fieldset>'
    return f"<section><h2>What was kept of the picture</h2>{viewer}{_legend(shown)}</section>"


def _tab(moment: Moment) -> str:
    return f"{moment.where}: {moment.method.split('(')[0]}" if moment.method else moment.where


def _stage(shown: Explanation, number: int, moment: Moment) -> str:
    each = "".join(_image(shown, n, moment, left) for n, left in enumerate(moment.images))
    return f'<div class="stage stage-{number}"><h3>{escape(moment.where)}</h3>{each}</div>'


def _image(shown: Explanation, number: int, moment: Moment, left: Left) -> str:
    view = shown.views[number]
    name = f"image {number + 1}, " if len(shown.views) > 1 else ""
    text = f"{name}{moment.where}: {caption(moment, left)}"
    each = "".join(
        f"<div>{_plane(shown, number, moment, left, plane, text)}<small>{escape(plane_name(view, plane))}</small></div>"
        for plane in planes(view)
    )
    shown_text = f"{name}{caption(moment, left)}"
    return (
        f'<figure class="shown"><div class="planes">{each}</div>'
        f"<figcaption>{escape(shown_text[:1].upper() + shown_text[1:])}</figcaption></figure>"
    )


def _plane(shown: Explanation, number: int, moment: Moment, left: Left, plane: int, text: str) -> str:
    view = shown.views[number]
    wide, high = view.picture.size
    drawn = "".join(_paint(mark, wide, high) for mark in marks(view, left, plane, shown.colours))
    if not moment.method:
        boxes = [box for patch in view.patches if view.planes[patch] == plane and (box := view.boxes[patch])]
        drawn += (
            f'<path d="{_path(boxes, wide, high)}" fill="none" stroke="{veil(view)}" stroke-opacity=".4" '
            f'stroke-width="1" vector-effect="non-scaling-stroke"/>'
        )
    name = plane_name(view, plane)
    label = escape(f"{text}{f' ({name})' if name else ''}", quote=True)
    return (
        f'<svg viewBox="0 0 {wide} {high}" role="img" aria-label="{label}"><use href="#picture-{number}"/>{drawn}</svg>'
    )


def _paint(mark: Mark, wide: float, high: float) -> str:
    opacity = OPACITY[mark.kind]
    drawn = f'<path d="{_path(mark.boxes, wide, high)}" fill="{mark.colour}" fill-opacity="{opacity}"/>'
    if mark.kind == "dropped":
        # Not by brightness alone: a stroke through every patch.
        ends = stroke_ends(mark.boxes, wide, high)
        strokes = "".join(f"M{_n(a)} {_n(b)}L{_n(c)} {_n(d)}" for (a, b), (c, d) in ends)
        drawn += f'<path d="{strokes}" stroke="#9aa7b4" stroke-width="1" vector-effect="non-scaling-stroke"/>'
    if mark.centre:
        outline = _path((mark.centre,), wide, high)
        for colour, line in (("#fff", 4), (mark.colour, 2)):
            drawn += (
                f'<path d="{outline}" fill="none" stroke="{colour}" stroke-width="{line}" '
                'vector-effect="non-scaling-stroke"/>'
            )
    return drawn


def _path(boxes: Iterable[Box], wide: float, high: float) -> str:
    return "".join(
        f"M{_n(a * wide)} {_n(b * high)}H{_n(c * wide)}V{_n(d * high)}H{_n(a * wide)}Z" for a, b, c, d in boxes
    )


def _legend(shown: Explanation) -> str:
    each = []
    for kind in used(shown.moments, shown.views):
        paint = SAMPLE if kind == "merged" else veil(shown.views[0])
        mark = "" if kind == "kept" else _paint(Mark(kind, ((0, 0, 1, 1),), paint), 10, 10)  # type: ignore[arg-type]
        swatch = f'<svg viewBox="0 0 10 10" aria-hidden="true"><path d="M0 0H10V10H0Z" fill="#cfe0ee"/>{mark}</svg>'
        each.append(f"<li>{swatch}{escape(LABELS[kind])}</li>")
    return f'<ul class="marks">{"".join(each)}</ul>'


def _layers(shown: Explanation) -> str:
    alive, depth, left = shown.alive, len(shown.alive), 70.0
    wide, top, every = left + STEP * depth, max(*shown.alive, shown.full, 1), max(1, -(-depth // 24))
    drawn = []
    for layer, count in enumerate(alive):
        x, tall = left + STEP * layer, BARS * count / top
        drawn.append(f'<rect class="bar" x="{x + 3}" y="{_n(20 + BARS - tall)}" width="{STEP - 6}" height="{_n(tall)}"/>')
        if layer == 0 or count != alive[layer - 1]:
            drawn.append(_text(x + STEP / 2, 14 + BARS - tall, str(count)))
        for line, name in enumerate(("attention", "ffn")):
            share, y = shown.active[name][layer], 32 + BARS + line * (CELL + 4)
            kind = "cell" if count else "cell none"
            fill = f' fill-opacity="{0.12 + 0.75 * share if share else 0:.2f}"' if count else ""
            drawn.append(f'<rect class="{kind}" x="{x + 3}" y="{y}" width="{STEP - 6}" height="{CELL}"{fill}/>')
        if layer % every == 0:
            drawn.append(_text(x + STEP / 2, 32 + BARS + 2 * (CELL + 4) + 12, str(layer), "quiet"))
    drawn.append(f'<path class="full" d="M{left} 20H{wide}"/>')
    if shown.full != alive[0]:
        drawn.append(_text(left - 8, 24, str(shown.full), end=True))
    for line, name in enumerate(("attention", "FFN")):
        drawn.append(_text(left - 8, 32 + BARS + line * (CELL + 4) + 15, name, end=True))
    drawn.append(_text(left - 8, 20 + BARS, "rows alive", "quiet", end=True))
    steps = [f"{count} from layer {n}" for n, count in enumerate(alive) if n == 0 or count != alive[n - 1]]
    label = escape(f"Visual rows alive: {', '.join(steps)}. {words.skipping(shown)}.", quote=True)
    high = 32 + BARS + 2 * (CELL + 4) + 20
    chart = f'<svg class="layers" viewBox="0 0 {wide:g} {high:g}" role="img" aria-label="{label}">{"".join(drawn)}</svg>'
    told = escape(words.skipping(shown))
    return (
        f"<section><h2>What ran in every layer</h2><p>{told[:1].upper()}{told[1:]}.</p>"
        f'<figure class="shown">{chart}<figcaption>Bars: visual rows alive. Under them: {words.STRIP}.</figcaption>'
        f"</figure></section>"
    )


def _numbers(shown: Explanation) -> str:
    """Every stage as a table, for those who read numbers or hear them."""
    head = ("stage", "image", "rows found", "rows left", "patches kept", "merged", "into rows", "dropped")
    keys = ("found", "left", "patches_kept", "patches_merged", "merged_rows", "patches_dropped")
    rows = "".join(
        f"<tr><td>{escape(moment.where)}{f': <code>{escape(moment.method)}</code>' if moment.method else ''}</td>"
        f"<td>{number}</td>" + "".join(f"<td>{left.counts[key]}</td>" for key in keys) + "</tr>"
        for moment in shown.moments
        for number, left in enumerate(moment.images, start=1)
    )
    titles = "".join(f'<th scope="col">{title}</th>' for title in head)
    table = f"<table><thead><tr>{titles}</tr></thead><tbody>{rows}</tbody></table>"
    note = f"<p>{escape(words.summary(shown))}.</p>"
    return f'<details class="numbers"><summary>All numbers</summary>{note}<div class="scroll">{table}</div></details>'


def _text(x: float, y: float, text: str, kind: str = "", end: bool = False) -> str:
    anchor = "end" if end else "middle"
    return f'<text x="{_n(x)}" y="{_n(y)}" text-anchor="{anchor}"{f" class={chr(34)}{kind}{chr(34)}" if kind else ""}>{text}</text>'


def _pixels(view: View) -> str:
    return ' class="pixels"' if max(view.picture.size) < 200 else ""


def _data(picture: Image) -> str:
    """A picture as a data address: PNG where it is small, else JPEG."""
    if max(picture.size) > LARGEST:
        picture = picture.copy()
        picture.thumbnail((LARGEST, LARGEST))
    kind, stream = "png", io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    if stream.tell() > 200_000:
        kind, stream = "jpeg", io.BytesIO()
        picture.save(stream, "JPEG", quality=90)
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"


def _n(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
