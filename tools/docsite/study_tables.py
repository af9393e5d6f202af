"""What studies found, as Markdown for pages: the claims of all of them, and each study's own tables."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

from docsite.glance_tables import load, missing
from saccade.report.markdown import markdown
from saccade.research.studies import STUDIES
from saccade.research.studies.run import summary


def file_of(name: str, results: Path) -> Path:
    """The result file of a study."""
    return results / f"study_{name.replace('-', '_')}.json"


def findings(results: Path) -> str:
    """Every claim that a study looked at: where it is made, whether it holds here, what was seen."""
    rows, absent = [], []
    for name in STUDIES:
        found = load(file_of(name, results))
        if found is None:
            absent.append(name)
            continue
        rows += [[f["claim"], f["source"], f["verdict"], f["found"], name] for f in found["findings"]]
    if not rows:
        return missing("saccade study NAME --out benchmarks/results")
    told = markdown(("claim", "made in", "here", "what was seen", "study"), rows, right_from=9)
    return told + (f"\n\nNot run yet: {', '.join(absent)}." if absent else "")


def study(name: str, results: Path) -> str:
    """One study: what was asked of what, what it says, and its tables."""
    found = load(file_of(name, results))
    if found is None:
        return missing(f"saccade study {name} --out benchmarks/results")
    return summary(found) + "\n\n" + STUDIES[name].tell(found)


STUDY_TABLES: dict[str, Callable[[Path], str]] = {
    "findings": findings,
    **{f"study-{name}": functools.partial(study, name) for name in STUDIES},
}
"""Tables by the name in the marker."""
