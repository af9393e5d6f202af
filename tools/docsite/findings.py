"""The page of findings: for every claim of the papers what the studies saw, from their result files."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saccade.report.markdown import markdown
from saccade.system.files import read_json

PICTURE = "findings/{}-{}.png"
"""Path in the site, by the study's name and the picture's."""


def results_of(results: Path) -> dict[str, Mapping[str, Any]]:
    """Results of studies by name.

    Raises:
        ValueError: If a file is not the result of a study.
    """
    found: dict[str, Mapping[str, Any]] = {}
    for path in sorted(results.glob("study_*.json")):
        data = read_json(path)
        if not isinstance(data, dict) or not isinstance(data.get("study"), str) or "findings" not in data:
            raise ValueError(f"{path} is not the result of a study")
        found[data["study"]] = data
    return found


def page(intro: str, results: Path, published: Path, drawn: Mapping[str, Any] | None = None) -> str:
    """All claims with their verdicts, then study by study what was seen.

    Args:
        intro: What stands before them.
        results: Folder of result files.
        published: TOML file of published numbers.
        drawn: What `pictures` gives, if it was made already: drawing takes longest.
    """
    from saccade.research.studies import STUDIES

    found = results_of(results)
    reported = tomllib.loads(published.read_text(encoding="utf-8"))
    drawn = pictures(results) if drawn is None else drawn
    parts = [intro, _claims(found)]
    order = [*(name for name in STUDIES if name in found), *(name for name in found if name not in STUDIES)]
    for name in order:
        parts += _study(name, found[name], STUDIES.get(name), reported, drawn)
    waiting = [study for name, study in STUDIES.items() if name not in found]
    if waiting:
        parts += ["## Not run yet", "No result file of these studies is in the repository."]
        parts.append("\n".join(f"- `saccade study {study.name}`: {study.question}" for study in waiting))
    rest = [table for table in reported.get("table", []) if table["study"] not in found]
    if rest:
        parts += ["## Reported numbers without a study beside them"]
        parts += [text for table in rest for text in _reported(table, reported)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _claims(found: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        [one["claim"], one["source"], f"**{one['verdict']}**", f"[{data['title']}](#{anchor(name)})"]
        for name, data in found.items()
        for one in data["findings"]
    ]
    if not rows:
        return ""
    return "## In brief\n\n" + markdown(("claim", "made in", "here", "study"), rows, right_from=9)


def anchor(name: str) -> str:
    """What links to a study's section lead to."""
    return f"study-{name}"


def _study(
    name: str, data: Mapping[str, Any], study: Any, reported: Mapping[str, Any], drawn: Mapping[str, Any]
) -> list[str]:
    from saccade.research.studies.run import summary

    parts = [f"## {data['title']} {{ #{anchor(name)} }}", summary(data)]
    if study is not None:
        found = ((path, re.fullmatch(PICTURE.format(re.escape(name), "(.+)"), path)) for path in drawn)
        parts += [f"![{data['title']}: {match[1]}]({path})" for path, match in found if match]
        parts.append(study.tell(data))
    tables = [table for table in reported.get("table", []) if table["study"] == name]
    parts += [text for table in tables for text in _reported(table, reported)]
    return [*parts, f"Run it again:\n\n```text\n{data['provenance']['command']}\n```"]


def _reported(table: Mapping[str, Any], reported: Mapping[str, Any]) -> list[str]:
    """A table as its paper has it."""
    paper = reported["paper"][table["paper"]]
    title = f"As reported: {table['title']} ([{paper['title']}]({paper['link']}), {table['where']})."
    return [title, markdown(table["head"], [[str(cell) for cell in row] for row in table["rows"]])]


def pictures(results: Path) -> dict[str, bytes]:
    """Pictures of the studies by their path in the site."""
    from saccade.research.studies import STUDIES

    return {
        PICTURE.format(name, label): picture
        for name, data in results_of(results).items()
        if name in STUDIES
        for label, picture in STUDIES[name].draw(data).items()
    }
