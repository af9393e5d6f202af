"""Pieces of the self-contained pages: one document, nothing fetched, no script, light and dark (pure)."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any


def document(title: str, body: str, rooms: Sequence[str] = (), css: str = "") -> str:
    """A whole page.

    Args:
        title: Of the window, as text.
        body: Inner HTML.
        rooms: Packages whose ``page.css`` is added to that of this room.
        css: More rules.
    """
    sheets = [files(r).joinpath("page.css").read_text(encoding="utf-8") for r in ("saccade.report", *rooms)]
    style = "\n".join([*sheets, css])
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n"
        f"</body>\n</html>\n"
    )


def header(eyebrow: str, title: str, lead: str, inner: str = "") -> str:
    """The top of a page; the lead is HTML, the others are text."""
    return (
        f'<header><p class="eyebrow">{escape(eyebrow)}</p><h1>{escape(title)}</h1>'
        f'<p class="lead">{lead}</p>{inner}</header>'
    )


def section(title: str, inner: str, name: str = "") -> str:
    """A titled part of a page; the name is what links lead to."""
    anchor = f' id="{escape(name)}"' if name else ""
    return f"<section{anchor}><h2>{escape(title)}</h2>{inner}</section>"


def table(head: Iterable[str], rows: Iterable[Sequence[str]], classes: str = "") -> str:
    """A table whose first column names its rows; cells are HTML, a cell that begins with ``<td`` as it is."""
    kind = f' class="{classes}"' if classes else ""
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "".join(f'<tr><th scope="row">{row[0]}</th>{"".join(map(_cell, row[1:]))}</tr>' for row in rows)
    return (
        f'<div class="scroll"><table{kind}><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _cell(inner: str) -> str:
    return inner if inner.startswith("<td") else f"<td>{inner}</td>"


def cards(entries: Iterable[tuple[str, str, str]]) -> str:
    """Large numbers side by side: (what, value, note), as text."""
    return '<div class="cards">' + "".join(
        f'<div class="card"><span>{escape(name)}</span><b>{escape(value)}</b>'
        f"<small>{escape(note)}</small></div>"
        for name, value, note in entries
    ) + "</div>"  # fmt: skip


def png(data: bytes, label: str, caption: str) -> str:
    """A picture in the page itself; the caption is HTML."""
    shown = base64.b64encode(data).decode()
    return (
        f'<figure><img alt="{escape(label)}" src="data:image/png;base64,{shown}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def drawing(svg: str, caption: str) -> str:
    """An inline drawing; both are HTML."""
    return (
        f'<figure class="drawing"><div class="scroll">{svg}</div><figcaption>{caption}</figcaption></figure>'
    )


def details(summary: str, inner: str) -> str:
    """A part that is folded away at first."""
    return f"<details><summary>{escape(summary)}</summary>{inner}</details>"


def command(text: str) -> str:
    """A command to copy."""
    return f"<pre><code>{escape(text)}</code></pre>"


def facts(data: Mapping[str, Any]) -> str:
    """Plain data as a table of two columns."""
    rows = "".join(
        f'<tr><th scope="row">{escape(str(key))}</th><td>{escape(plain(value))}</td></tr>'
        for key, value in data.items()
    )
    return f'<div class="scroll"><table class="facts">{rows}</table></div>'


def plain(value: Any) -> str:
    """Plain data in one line of text."""
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {plain(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value))
    return "not recorded" if value is None else str(value)


def dot(paint: str) -> str:
    """A spot of colour before a name."""
    return f'<i style="background:{paint}"></i>'
