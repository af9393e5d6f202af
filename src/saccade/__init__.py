"""Saccade makes stock Hugging Face vision-language models skip visual computation they do not need."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from saccade import former
from saccade._version import __version__

if TYPE_CHECKING:
    from saccade import check
    from saccade.calibration import calibrate
    from saccade.core.layout import Layout
    from saccade.core.pricing import cost
    from saccade.core.route import Route
    from saccade.engine import Attachment, apply
    from saccade.evaluation import evaluate
    from saccade.healing import heal
    from saccade.inputs.samples import Sample
    from saccade.measure import bench  # type: ignore[no-redef]
    from saccade.models import load
    from saccade.plans.plan import Plan
    from saccade.tuning import tune

_HOMES = {
    "Attachment": "saccade.engine",
    "Layout": "saccade.core.layout",
    "Plan": "saccade.plans.plan",
    "Route": "saccade.core.route",
    "Sample": "saccade.inputs.samples",
    "apply": "saccade.engine",
    "bench": "saccade.measure",
    "calibrate": "saccade.calibration",
    "cost": "saccade.core.pricing",
    "evaluate": "saccade.evaluation",
    "heal": "saccade.healing",
    "load": "saccade.models",
    "tune": "saccade.tuning",
}

__all__ = [
    "Attachment",
    "Layout",
    "Plan",
    "Route",
    "Sample",
    "__version__",
    "apply",
    "bench",
    "calibrate",
    "check",
    "cost",
    "evaluate",
    "heal",
    "load",
    "tune",
]


_ROOMS = ("check",)

former.lead()


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"saccade.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'saccade' has no attribute {name!r}")
