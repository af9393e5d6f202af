"""The self-contained HTML reports of the demo: images inlined, no script, nothing fetched (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from saccade.report.pieces import document
from saccade.report.templates import fill

ROOM = "saccade.research.demo"


def render(study: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    """The page of a study.

    Args:
        study: What ``saccade.research.demo.run`` found, as written to ``demo.json``.
        pictures: PNG bytes by name: ``layers``, ``retention``, ``flops``, ``measured``, ``question-N``.

    Raises:
        ValueError: If its headline names a plan that it does not have.
    """
    plans, headline = {entry["name"]: entry for entry in study["plans"]}, study["headline"]
    named = {"main": [headline["main"]], "layers": headline["layers"], "flops": headline["flops"]}
    unknown = [name for names in named.values() for name in names if name not in plans]
    if unknown:
        raise ValueError(f"the study has no plan named {unknown[0]!r}")
    chosen = {key: [plans[name] for name in names] for key, names in named.items()}
    told = {**study, "best": chosen["main"][0], "chosen": chosen, "pictures": pictures}
    return document(f"Saccade on {study['model']['name']}", fill(ROOM, "study.html", **told))


def render_family(study: Mapping[str, Any], picture: bytes) -> str:
    """The page of a comparison of all methods at matched FLOPs.

    Args:
        study: What ``saccade.research.demo.family_study`` found, as written to ``family.json``.
        picture: PNG bytes of its plot.
    """
    body = fill(ROOM, "family.html", **study, picture=picture)
    return document(f"All methods on {study['model']['name']}", body)
