"""Studies as the report's records: what ``saccade study`` writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from saccade import extensions
from saccade.report.results.evaluations import comparison, model_of, provenance
from saccade.report.results.fields import Fields
from saccade.report.results.model import ReadFinding, Result, StudyText


def read_study(data: Any, path: str) -> Result:
    """A study: its evaluation, its findings, and what the study itself tells and draws of them."""
    top = Fields.of(data, path)
    name = top.text("study")
    found = comparison(top)
    findings = tuple(
        ReadFinding(one.text("claim"), one.text("source", ""), one.text("verdict"), one.text("found", ""))
        for one in top.parts("findings")
    )
    told = StudyText(
        name, top.text("title", name), top.text("question", ""), findings, *_own(name, data, path)
    )
    return Result(
        path, f"study {name}", model_of(top, None, found.dense.cost), provenance(top), {"": found}, told=told
    )


def _own(name: str, data: Any, path: str) -> tuple[str, Mapping[str, bytes]]:
    """Markdown and pictures (PNG) by the study's own hand; nothing where this version does not know it."""
    tellers = extensions.found(extensions.STUDIES)
    try:
        told = [teller.load()(name, data) for teller in tellers.values()]
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, StopIteration) as error:
        raise ValueError(
            f"{path} is not a whole result of study {name}: {type(error).__name__} {error}"
        ) from error
    return next((one for one in told if one is not None), ("", {}))
