"""The page of any number of result files, model by model (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from saccade.report import pieces
from saccade.report.results import accuracy, speed, wording
from saccade.report.results.findings import study
from saccade.report.results.group import Group, by_model
from saccade.report.results.kinds import Palette
from saccade.report.results.model import Result
from saccade.report.text import counted


def render(results: Sequence[Result]) -> str:
    """One page: for every model its evaluations, benches, costs and plans, then where files come from."""
    groups = by_model(results)
    names = ", ".join(group.title for group in groups)
    lead = escape(wording.LEAD.format(files=counted(len(results), "result file"), models=names))
    links = "".join(
        f'<a href="#model-{n}">{escape(group.title)}</a>' for n, group in enumerate(groups, start=1)
    )
    inner = f'<nav class="files">{links}<a href="#sources">where it comes from</a></nav>'
    body = [pieces.header("saccade report", _title(groups), lead, inner)]
    for number, group in enumerate(groups, start=1):
        body.append(_heading(group, number))
        body += _sections(group, f"m{number}")
    assumed = {path for group in groups for path in group.assumed}
    sources = "".join(_source(result, result.path in assumed) for result in results)
    body.append(pieces.section("Where it comes from", sources, "sources"))
    return pieces.document(f"Saccade: {names}", "\n".join(body))


def _title(groups: Sequence[Group]) -> str:
    if len(groups) == 1:
        return f"What skipping saved and cost on {groups[0].name}"
    return f"What skipping saved and cost on {len(groups)} models"


def _heading(group: Group, number: int) -> str:
    size = f"{group.layers} decoder layers" if group.layers else ""
    scored = any(result.comparisons for result in group.results)
    weights = f"weights {group.weights}" if group.weights else "weights not recorded" if scored else ""
    small = ", ".join(text for text in (size, weights) if text)
    return f'<h2 class="model" id="model-{number}">{escape(group.name)} <small>{escape(small)}</small></h2>'


def _sections(group: Group, name: str) -> list[str]:
    named = accuracy.comparisons(group)
    palette = Palette.of((e.spec for _, found in named for e in found.entries), group.layers)
    several = len(named) > 1
    out = []

    def each(title: str, inner: str, file: str) -> None:
        if inner:
            out.append(pieces.section(f"{title}: {file}" if several else title, inner))

    out += [study(result.told) for result in group.results if result.told is not None]
    if several:
        out.append(pieces.section("The same plans, file by file", accuracy.side_by_side(named)))
    plot = accuracy.plots(named, palette, name)
    if plot:
        out.append(pieces.section("What is kept, for what it costs", plot))
    for number, (file, found) in enumerate(named):
        each("Accuracy and cost", accuracy.table(found, palette), file)
        each("Task by task", accuracy.bars(found, palette, f"{name}-{number}"), file)
        each("What was lost", accuracy.losses(found, palette), file)
        each("Official metrics", accuracy.official(found), file)
        if found.checks:
            each("What was checked", accuracy.gate(found), file)
    if named:
        shown = accuracy.maps(named, group, palette)
        if shown:
            out.append(pieces.section("Which layers are touched", shown))
    benches = [result for result in group.results if result.timed]
    if benches:
        out.append(pieces.section("Time and memory", speed.bench(benches, name)))
    for number, result in enumerate(group.results):
        if result.priced:
            out.append(pieces.section(f"Cost in closed form: {result.path}", speed.cost(result)))
        if result.planned is not None:
            out.append(
                pieces.section(f"The plan {result.path}", speed.plan(result, group, f"{name}-p{number}"))
            )
    return out


def _source(result: Result, assumed: bool) -> str:
    told = dict(result.provenance)
    command = told.pop("command", None)
    again = f"<p>{wording.NO_COMMAND}</p>"
    if command:
        again = f"<p>{wording.AGAIN}</p>{pieces.command(str(command))}"
    model = {"kind": result.kind, "model": result.model.name, "weights": result.model.weights or None}
    note = f"<p>{wording.ASSUMED}</p>" if assumed else ""
    return f"<h3>{escape(result.path)}</h3>{note}{again}{pieces.facts(model | told)}"
