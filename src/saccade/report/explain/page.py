"""The explanation as one web page: nothing fetched, no script, for screen readers too (pure)."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from html import escape

from PIL.Image import Image

from saccade.report import pieces
from saccade.report.explain import words
from saccade.report.explain.explained import ExplainedAnswer
from saccade.report.explain.marks import legend, plane_name, planes, veil
from saccade.report.explain.stages import Left, Moment, View, caption
from saccade.report.explain.vectors import chart, panel, sample
from saccade.report.text import percent

LARGEST = 1024
"""Longest side of an image in the page, in pixels; marks are drawn as vectors over it."""


def render(shown: ExplainedAnswer) -> str:
    """The page."""
    chosen = (f"#stage-{n}:checked ~ .stage-{n}" for n in range(len(shown.moments)))
    title = f"Saccade explains: {shown.question}"
    body = "\n".join((_head(shown), _pictures(shown), _stages(shown), _layers(shown), _numbers(shown)))
    css = f"{', '.join(chosen)} {{ display: block; }}\n"
    return pieces.document(title, body, ("saccade.report.explain",), css)


def _head(shown: ExplainedAnswer) -> str:
    verdict = f'<span class="{"same" if shown.same else "differ"}">{words.verdict(shown).strip(" ()")}</span>'
    cost = shown.cost
    says = (
        ("stock model says", escape(words.said(shown.answers["dense"])), "every visual row in every layer"),
        ("with the plan", escape(words.said(shown.answers["planned"])), verdict),
    )
    costs = (
        ("FLOPs", percent(cost["ratio"]), "of the dense decoder prefill, the papers' count"),
        ("KV cache", percent(cost["kv_ratio"]), "of the dense one after the prompt"),
        ("visual rows", f"{cost['equivalent_tokens']:.1f}", f"of {shown.full} alive, mean over layers"),
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


def _pictures(shown: ExplainedAnswer) -> str:
    """Every image once; the panels refer to it."""
    each = "".join(
        f'<image id="picture-{n}" width="{v.picture.width}" height="{v.picture.height}" '
        f'preserveAspectRatio="none"{_pixels(v)} href="{_data(v.picture)}"/>'
        for n, v in enumerate(shown.views)
    )
    return f'<svg class="shared" width="0" height="0" aria-hidden="true"><defs>{each}</defs></svg>'


def _stages(shown: ExplainedAnswer) -> str:
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


def _stage(shown: ExplainedAnswer, number: int, moment: Moment) -> str:
    each = "".join(_image(shown, n, moment, left) for n, left in enumerate(moment.images))
    return f'<div class="stage stage-{number}"><h3>{escape(moment.where)}</h3>{each}</div>'


def _image(shown: ExplainedAnswer, number: int, moment: Moment, left: Left) -> str:
    view = shown.views[number]
    name = f"image {number + 1}: " if len(shown.views) > 1 else ""
    text = f"{name}{moment.where}: {caption(moment, left)}"
    each = ""
    for plane in planes(view):
        side = plane_name(view, plane)
        label = f"{text} ({side})" if side else text
        each += f"<div>{panel(shown, number, moment, plane, label)}<small>{escape(side)}</small></div>"
    shown_text = f"{name}{caption(moment, left)}"
    return (
        f'<figure class="shown"><div class="planes">{each}</div>'
        f"<figcaption>{escape(shown_text[:1].upper() + shown_text[1:])}</figcaption></figure>"
    )


def _legend(shown: ExplainedAnswer) -> str:
    paint = veil(shown.views[0])
    each = "".join(
        f"<li>{sample(mark, paint)}{escape(label)}</li>" for label, mark in legend(shown.moments, shown.views)
    )
    return f'<ul class="marks">{each}</ul>' if len(shown.moments) > 1 else ""


def _layers(shown: ExplainedAnswer) -> str:
    text = escape(words.skipping(shown))
    note = f"Bars: visual rows alive. Under them: {words.STRIP}."
    figure = f'<div class="scroll">{chart(shown)}</div><figcaption>{note}</figcaption>'
    return (
        f"<section><h2>What ran in every layer</h2><p>{text[:1].upper()}{text[1:]}.</p>"
        f'<figure class="shown">{figure}</figure></section>'
    )


def _numbers(shown: ExplainedAnswer) -> str:
    """Every stage as a table, for those who read numbers or hear them."""
    head = ("stage", "image", "rows found", "rows left", "patches kept", "merged", "into rows", "dropped")
    keys = ("found", "left", "patches_kept", "patches_merged", "merged_rows", "patches_dropped")
    rows = ""
    for moment in shown.moments:
        stage = escape(moment.where) + (f": <code>{escape(moment.method)}</code>" if moment.method else "")
        for number, left in enumerate(moment.images, start=1):
            cells = "".join(f"<td>{left.counts[key]}</td>" for key in keys)
            rows += f"<tr><td>{stage}</td><td>{number}</td>{cells}</tr>"
    titles = "".join(f'<th scope="col">{title}</th>' for title in head)
    table = f"<table><thead><tr>{titles}</tr></thead><tbody>{rows}</tbody></table>"
    inner = f'<p>{escape(words.summary(shown))}.</p><div class="scroll">{table}</div>'
    return f'<details class="numbers"><summary>All numbers</summary>{inner}</details>'


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
