"""The report of a check that accepted an adapter made by inspection, read back for the same model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from saccade.families import Family
from saccade.opening.checks import read_object


def take_report(path: Path, model: Any, family: Family) -> None:
    """Lets plans be put on a model that a check has accepted its adapter for.

    Args:
        path: What ``saccade check --generic --json`` wrote.
        model: The model.
        family: Its adapter; one that somebody wrote needs no report.

    Raises:
        ValueError: If the file is no such report, or it is of another model.
    """
    if not path.is_file():
        raise ValueError(f"no report {path}: saccade check MODEL --generic --json {path} writes one")
    report = read_object(path)
    if not family.generic:
        return
    said, found = report.get("accepted"), report.get("model")
    if not isinstance(said, list) or not all(isinstance(n, str) for n in said) or not isinstance(found, dict):
        raise ValueError(
            f"{path} is no report of saccade check --generic, for it does not say what it accepted"
        )
    if found.get("layers_checked") != found.get("layers"):
        raise ValueError(
            f"{path} is of the first {found.get('layers_checked')} of {found.get('layers')} layers, so that "
            "it accepts nothing: check all of them (saccade check MODEL --generic without --layers)"
        )
    if found.get("adapter") != family.told():
        raise ValueError(
            f"{path} is of another adapter than is made of this model here, so that it accepts nothing: "
            f"check anew (saccade check MODEL --generic --json {path})"
        )
    if found.get("identity") != family.identity(model):
        raise ValueError(
            f"{path} is of another model than this one: check this one (saccade check MODEL --generic)"
        )
    family.accept(said)
