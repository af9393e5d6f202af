"""The page of findings: for every claim of the papers what the studies saw, from their result files."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saccade.report.markdown import markdown
from saccade.system.embedded import GLANCE, of_result
from saccade.system.files import read_json

Results = dict[str, dict[str, Mapping[str, Any]]]
"""Results of studies: by the study's name, and by the embedded model's, with Glance last."""
Drawn = dict[tuple[str, str], Mapping[str, bytes]]
"""Pictures of results by their names, by the study's name and the model's."""


def results_of(results: Path) -> Results:
    """Results of studies.

    Raises:
        ValueError: If a file is not the result of a study.
    """
    found: Results = {}
    for path in sorted(results.glob("study_*.json")):
        data = read_json(path)
        if not isinstance(data, dict) or not isinstance(data.get("study"), str) or "findings" not in data:
            raise ValueError(f"{path} is not the result of a study")
        found.setdefault(data["study"], {})[of_result(data["model"]["name"]).title] = data
    return {
        name: dict(sorted(by.items(), key=lambda one: one[0] == GLANCE.title)) for name, by in found.items()
    }


def page(intro: str, results: Path, published: Path, pictures: Drawn | None = None) -> str:
    """All claims with their verdicts, then study by study what was seen.

    Args:
        intro: What stands before them.
        results: Folder of result files.
        published: TOML file of published numbers.
        pictures: What `drawn` gives, if it was made already: drawing takes longest.
    """
    from saccade.research.studies import STUDIES

    found = results_of(results)
    pictures = drawn(results) if pictures is None else pictures
    reported = tomllib.loads(published.read_text(encoding="utf-8"))
    parts = [intro, _claims(found)]
    order = [*(name for name in STUDIES if name in found), *(name for name in found if name not in STUDIES)]
    for name in order:
        parts += _study(name, found[name], STUDIES.get(name), pictures)
        tables = [table for table in reported.get("table", []) if table["study"] == name]
        parts += [text for table in tables for text in _reported(table, reported)]
        commands = "\n".join(data["provenance"]["command"] for data in found[name].values())
        parts.append(f"Run it again:\n\n```text\n{commands}\n```")
    waiting = [study for name, study in STUDIES.items() if name not in found]
    if waiting:
        parts += ["## Not run yet", "No result file of these studies is in the repository."]
        parts.append("\n".join(f"- `saccade study {study.name}`: {study.question}" for study in waiting))
    rest = [table for table in reported.get("table", []) if table["study"] not in found]
    if rest:
        parts += ["## Reported numbers without a study beside them"]
        parts += [text for table in rest for text in _reported(table, reported)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _claims(found: Results) -> str:
    """Every claim once, with each model's verdict beside the others'."""
    models = list(dict.fromkeys(model for by in found.values() for model in by))
    models.sort(key=lambda model: model == GLANCE.title)
    rows: dict[tuple[str, str, str], dict[str, str]] = {}
    for name, by in found.items():
        for model, data in by.items():
            for one in data["findings"]:
                link = f"[{data['title']}](#{anchor(name)})"
                rows.setdefault((one["claim"], one["source"], link), {})[model] = f"**{one['verdict']}**"
    if not rows:
        return ""
    here = ["here"] if len(models) == 1 else [f"on {model}" for model in models]
    lines = [
        [claim, source, *(said.get(model, "") for model in models), link]
        for (claim, source, link), said in rows.items()
    ]
    return "## In brief\n\n" + markdown(("claim", "made in", *here, "study"), lines, right_from=9)


def anchor(name: str) -> str:
    """What links to a study's section lead to."""
    return f"study-{name}"


def _study(name: str, by: Mapping[str, Mapping[str, Any]], study: Any, pictures: Drawn) -> list[str]:
    from saccade.research.studies.run import summary

    parts = [f"## {next(iter(by.values()))['title']} {{ #{anchor(name)} }}"]
    for model, data in by.items():
        if len(by) > 1:
            parts.append(f"### On {model}")
        parts.append(summary(data))
        labels = pictures.get((name, model), {})
        parts += [f"![{data['title']}: {label}]({place(name, model, label)})" for label in labels]
        if study is not None:
            parts.append(study.tell(data))
    return parts


def _reported(table: Mapping[str, Any], reported: Mapping[str, Any]) -> list[str]:
    """A table as its paper has it."""
    paper = reported["paper"][table["paper"]]
    title = f"As reported: {table['title']} ([{paper['title']}]({paper['link']}), {table['where']})."
    return [title, markdown(table["head"], [[str(cell) for cell in row] for row in table["rows"]])]


def place(study: str, model: str, label: str) -> str:
    """Path of a picture in the site."""
    told = "" if model == GLANCE.title else f"-{model.lower()}"
    return f"findings/{study}{told}-{label}.png"


def drawn(results: Path) -> Drawn:
    """Pictures of all studies."""
    from saccade.research.studies import STUDIES

    return {
        (name, model): STUDIES[name].draw(data)
        for name, by in results_of(results).items()
        if name in STUDIES
        for model, data in by.items()
    }
