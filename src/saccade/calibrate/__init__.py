"""Which layers can lose their visual computation, measured on a few samples.

``saccade.calibrate(...)`` is the function of the same name; ``saccade.calibrate.scores(...)`` stops before a
budget is applied.
"""

from __future__ import annotations

import sys
import types
from typing import Any

from saccade.calibrate.api import ETA, calibrate, scores
from saccade.calibrate.draw import data_hash, draw
from saccade.calibrate.measures import ascending, cosine_distance, kl
from saccade.calibrate.probes import PROBES, Probe
from saccade.calibrate.scores import Scores

__all__ = [
    "ETA",
    "PROBES",
    "Probe",
    "Scores",
    "ascending",
    "calibrate",
    "cosine_distance",
    "data_hash",
    "draw",
    "kl",
    "scores",
]


# Importing this package binds its name in ``saccade``, over the function of that name: whichever of the two
# a user gets, it can be called and has ``scores``.
calibrate.scores = scores  # type: ignore[attr-defined]


class _Callable(types.ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return calibrate(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
