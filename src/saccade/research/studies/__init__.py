"""The papers' studies, run again: each is one file here, found by name; all share one store of answers."""

from __future__ import annotations

import importlib
import pkgutil

from saccade.research.studies.base import Design, Finding, Study
from saccade.research.studies.bench import StudyBench
from saccade.research.studies.lines import Book, Line
from saccade.research.studies.questions import StudyQuestions
from saccade.research.studies.run import run
from saccade.research.studies.store import Cell, Key, Store

__all__ = [
    "STUDIES",
    "Book",
    "Cell",
    "Design",
    "Finding",
    "Key",
    "Line",
    "Store",
    "Study",
    "StudyBench",
    "StudyQuestions",
    "run",
]


def _found() -> dict[str, Study]:
    modules = (importlib.import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__))
    named = {module.STUDY.name: module.STUDY for module in modules if hasattr(module, "STUDY")}
    return dict(sorted(named.items()))


STUDIES: dict[str, Study] = _found()
"""Every study by name."""
