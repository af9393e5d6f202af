"""Names of studies, known without importing any of them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from saccade.core.text import quoted
from saccade.system.listing import files_with

_STUDIES = Path(__file__).parent / "studies"


@cache
def study_names() -> tuple[str, ...]:
    """Studies by name: each is a file that holds a ``STUDY``."""
    return tuple(name.replace("_", "-") for name in files_with(_STUDIES, r"^STUDY\b"))


def check_study(name: str) -> None:
    """Refuses a study that is not there.

    Raises:
        ValueError: If it is not.
    """
    if name not in study_names():
        raise ValueError(f"no study {quoted(name)}; there are {', '.join(study_names())}")
