"""Sections of the repository's own pages within the site, and links that lead to the right place (pure)."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping

HEADING = re.compile(r"^(#{1,6}) +(.+?)\s*$")
LINK = re.compile(r"(?<!!)\[([^\]\n]+)\]\(([^)\s]+)\)")


def slug(heading: str) -> str:
    """A heading as links name it."""
    return re.sub(r"[\s_]+", "-", re.sub(r"[^\w\s-]", "", heading.lower())).strip("-")


def section(text: str, name: str) -> str:
    """The section under a heading, with its deeper sections, its own heading left out.

    Args:
        text: Markdown.
        name: The heading as links name it.

    Raises:
        ValueError: If there is no such heading.
    """
    taken: list[str] = []
    depth = 0
    fenced = False
    for line in text.splitlines():
        fenced ^= line.startswith("```")
        heading = None if fenced else HEADING.match(line)
        if depth and heading and len(heading[1]) <= depth:
            break
        if depth:
            taken.append(line)
        elif heading and slug(heading[2]) == name:
            depth = len(heading[1])
    if not depth:
        raise ValueError(f"there is no heading #{name}")
    return "\n".join(taken).strip()


def relinked(text: str, page: str, places: Mapping[str, str]) -> str:
    """Links to files of the repository, led to where the site has them; others become plain text.

    Args:
        text: Markdown as it stands in the repository's root.
        page: Path of the page within the site that it stands on.
        places: Path within the site of each file of the repository that the site has.
    """

    def lead(found: re.Match[str]) -> str:
        words, target = found.groups()
        if "://" in target or target.startswith(("#", "mailto:")):
            return found[0]
        file, _, anchor = target.partition("#")
        place = places.get(file)
        if place is None:
            return words
        way = posixpath.relpath(place, posixpath.dirname(page) or ".")
        return f"[{words}]({way}{'#' + anchor if anchor else ''})"

    return LINK.sub(lead, text)
