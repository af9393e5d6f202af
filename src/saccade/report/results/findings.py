"""Studies as HTML: what they say about claims, in their own tables and pictures (pure)."""

from __future__ import annotations

from html import escape

from markdown_it import MarkdownIt

from saccade.report import pieces
from saccade.report.results.model import StudyText

VERDICTS = {"supported": "yes", "not supported": "no"}
"""Class of a verdict in the page's style sheet; others are plain."""


def study(told: StudyText) -> str:
    """The section of a study."""
    rows = [
        [
            escape(one.claim),
            f'<td class="words">{escape(one.source)}</td>',
            f'<td class="{VERDICTS.get(one.verdict, "words")}">{escape(one.verdict)}</td>',
            f'<td class="words">{escape(one.found)}</td>',
        ]
        for one in told.findings
    ]
    claims = pieces.table(("claim", "made in", "here", "what was seen"), rows, "claims") if rows else ""
    pictures = "".join(pieces.png(data, name, escape(name)) for name, data in told.pictures.items())
    own = pieces.details("The study's own tables", prose(told.markdown)) if told.markdown else ""
    return pieces.section(told.title, f"<p>{escape(told.question)}</p>{claims}{pictures}{own}")


def prose(markdown: str) -> str:
    """Markdown with tables as HTML; pictures and HTML in it are left out, for a page fetches nothing."""
    reader = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
    return (
        reader.render(markdown)
        .replace("<table>", '<div class="scroll"><table>')
        .replace("</table>", "</table></div>")
    )
