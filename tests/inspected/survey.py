"""One class of transformers: built small, looked at, and checked with one plan of every kind."""

from __future__ import annotations

import time
import warnings
from typing import Any

import saccade.check
from inspected.classes import kinds, model_of
from inspected.scene import prompts
from saccade.core.text import short
from saccade.families import FAMILIES, adopt
from saccade.families.generic import GenericFamily
from saccade.models import wrap

WANTED = ("vskip", "ffn_skip", "shortv", "vtw", "fastv", "divprune", "uniform")
"""What a class that passes has to have at least."""


def survey(kind: str) -> dict[str, Any]:
    """What became of a class.

    Args:
        kind: Its model type.

    Returns:
        ``outcome`` is ``passed`` (all of ``WANTED`` were accepted and nothing failed), ``refused``,
        ``failed`` or ``not tried`` (no tiny model or no pictures of it could be made); ``why`` says why.
    """
    begun = time.perf_counter()
    found: dict[str, Any] = {"class": kinds()[kind], "model_type": kind, "own_adapter": kind in FAMILIES}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found |= _tried(kind)
    return found | {"seconds": round(time.perf_counter() - begun, 1)}


def _tried(kind: str) -> dict[str, Any]:
    try:
        model = model_of(kind)
    except Exception as error:  # configurations raise whatever their authors chose
        return {"outcome": "not tried", "why": f"no tiny model: {_line(error)}"}
    try:
        family = GenericFamily.of(model)
    except ValueError as error:
        return {"outcome": "refused", "why": str(error).partition("by inspection: ")[2]}
    adopt(model, family)
    try:
        asked = prompts(model, kind, family.visual_ids(model.config)[0])
        model(**asked.picture)
    except Exception as error:  # models raise whatever their authors chose
        return {"outcome": "not tried", "why": f"no pictures: {_line(error)}"}
    try:
        report = saccade.check.run(wrap(model, None, kind), prompts=asked)
    except ValueError as error:
        return {"outcome": "refused", "why": str(error)}
    accepted = list(report.accepted or ())
    lacking = [name for name in WANTED if name not in accepted]
    why = [f"{row.plan}: {row.why}" for row in report.failures] or [f"not accepted: {', '.join(lacking)}"]
    return {
        "outcome": "passed" if report.passed and not lacking else "failed",
        "why": "" if report.passed and not lacking else why[0],
        "decoder": report.model["text_type"],
        "rows": report.model["prompt_rows"],
        "visual_rows": report.model["visual_rows"],
        "accepted": accepted,
        "adapter": report.model["adapter"],
    }


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return short(lines[-1].strip() if lines else type(error).__name__, 120)
