"""What studies there are, known without importing any of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from saccade.core.text import quoted
from saccade.system.embedded import GLANCE, Embedded
from saccade.system.listing import called, files_with

_STUDIES = Path(__file__).parent / "studies"


@dataclass(frozen=True)
class StudyName:
    """What the list of studies says of one.

    Attributes:
        name: Name on the command line.
        question: What it asks, in one sentence.
        trains: Whether it trains models of its own.
    """

    name: str
    question: str
    trains: bool = False


@cache
def listed() -> Mapping[str, StudyName]:
    """Studies by name: each is a file that holds a ``STUDY``, and what stands in it is read as text.

    Raises:
        ValueError: If a study's name, title or question is no plain string.
    """
    found = {}
    for stem in files_with(_STUDIES, r"^STUDY\b"):
        path = _STUDIES / f"{stem}.py"
        said, options = called(path, "STUDY")
        if len(said) < 3 or not all(isinstance(word, str) for word in said[:3]):
            raise ValueError(
                f"{path}: STUDY is read as text, so its name, title and question stand in the call as plain "
                "strings"
            )
        name, _, question, *_ = said
        found[name] = StudyName(name, question, options.get("trains", False))
    return dict(sorted(found.items()))


def stem_of(study: str, model: Embedded = GLANCE) -> str:
    """How names of a study's result files begin; another embedded model than Glance is named in them."""
    return f"study_{study.replace('-', '_')}" + ("" if model is GLANCE else f"_{model.name}")


def check_study(name: str) -> None:
    """Refuses a study that is not there.

    Raises:
        ValueError: If it is not.
    """
    if name not in listed():
        raise ValueError(f"no study {quoted(name)}; there are {', '.join(listed())}")
