"""Numbers in prose, taken from result files (pure but for reading).

``<!-- FILE: path/to/number | format -->12.3 %<!-- / -->``: what stands between the marks is written anew by
``python -m docsite.tables``, so that a page reads well where it lies too.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from saccade.report.text import interval, percent, points
from saccade.system.files import read_json

VALUE = re.compile(r"(<!-- ([\w.-]+\.json): ([^|\n]+?) \| (\w+) -->)(.*?)(<!-- / -->)", re.DOTALL)
"""A number of a result file: the file's name, the way to it, how it is written, and what is written."""
_MARK = re.compile(r"<!-- (?:[^\s>]+\.json\b|/ -->)")
_CODE = re.compile(r"^(```|~~~).*?^\1[ \t]*$|`[^`\n]*`", re.DOTALL | re.MULTILINE)


def _difference(entry: Any) -> str:
    low, high = points(entry["difference_low"]), points(entry["difference_high"])
    return f"{points(entry['difference'])} points ({low} to {high})"


FORMATS: dict[str, Callable[[Any], str]] = {
    "percent": percent,
    "whole": lambda value: percent(value, 0),
    "count": lambda value: f"{value:,}",
    "plain": str,
    "line": lambda name: name.split(" at ")[0],
    "millions": lambda value: f"{value / 1e6:.1f}",
    "ratio": lambda value: f"{value:.2f}",
    "accuracy": lambda entry: interval(entry, "accuracy"),
    "kept": lambda entry: interval(entry, "retention_above_blind"),
    "difference": _difference,
}
"""Ways to write what is found: a number, or a score with its limits."""


def filled(text: str, results: Path, marked: bool = False) -> str:
    """The text with every number put in; code is left as it is.

    Args:
        text: Markdown.
        results: Folder of result files.
        marked: Whether the marks stay around the numbers.

    Raises:
        ValueError: If a file, a place in it or a format is unknown, or a mark is not read.
    """

    def written(found: re.Match[str]) -> str:
        number = value(results, found[2], found[3], found[4])
        return f"{found[1]}{number}{found[6]}" if marked else number

    parts, at = [], 0
    for code in [*_CODE.finditer(text), None]:
        prose = text[at : code.start() if code else len(text)]
        left = _MARK.search(VALUE.sub("", prose))
        if left:
            said = left.string[left.start() :].splitlines()[0][:60]
            raise ValueError(
                f"{said!r} is no mark of a number, or has no other half: "
                "<!-- FILE.json: way/to/it | format --><!-- / -->"
            )
        parts += [VALUE.sub(written, prose), code[0] if code else ""]
        at = code.end() if code else at
    return "".join(parts)


def value(results: Path, file: str, way: str, form: str) -> str:
    """One value, written out.

    Args:
        results: Folder of result files.
        file: Name of a file there.
        way: Keys joined by ``/``; in a list the ``name``, ``spec`` or ``plan`` of an entry, or its number.
        form: One of ``FORMATS``.

    Raises:
        ValueError: If any of them is unknown.
    """
    if form not in FORMATS:
        raise ValueError(f"no format {form!r}; known: {', '.join(FORMATS)}")
    found = read_json(results / file)
    for key in way.split("/"):
        found = _step(found, key, f"{file}: {way}")
    try:
        return FORMATS[form](found)
    except (TypeError, KeyError, ValueError, AttributeError):
        raise ValueError(f"{file}: {way} cannot be written as {form}") from None


def _step(place: Any, key: str, where: str) -> Any:
    if isinstance(place, dict) and key in place:
        return place[key]
    if isinstance(place, list):
        for entry in place:
            if isinstance(entry, dict) and key in (entry.get("name"), entry.get("spec"), entry.get("plan")):
                return entry
        if key.isdecimal() and int(key) < len(place):
            return place[int(key)]
    raise ValueError(f"{where}: there is no {key!r}")
