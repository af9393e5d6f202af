"""What studies found, as Markdown for pages: the claims of all of them, and each study's own tables."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

from docsite.glance_tables import load, missing
from saccade.research.names import stem_of
from saccade.research.studies import STUDIES
from saccade.research.studies.run import summary
from saccade.system.embedded import GAZE, GLANCE, Embedded


def file_of(name: str, results: Path, model: Embedded = GLANCE) -> Path:
    """The result file of a study on an embedded model."""
    return results / f"{stem_of(name, model)}.json"


def study(name: str, model: Embedded, results: Path) -> str:
    """One study: what was asked of what, what it says, and its tables."""
    found = load(file_of(name, results, model))
    if found is None:
        return missing(f"saccade study {name} {model.name} --out benchmarks/results")
    return summary(found) + "\n\n" + STUDIES[name].tell(found)


STUDY_TABLES: dict[str, Callable[[Path], str]] = {
    f"study-{name}{told}": functools.partial(study, name, model)
    for told, model in (("", GLANCE), ("-gaze", GAZE))
    for name in STUDIES
}
"""Tables by the name in the marker."""
