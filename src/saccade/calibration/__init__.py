"""Which layers can lose their visual computation, measured on a few samples.

``calibrate`` gives a plan; ``scores`` stops before a budget is applied.
"""

from __future__ import annotations

from saccade.calibration.api import ETA, calibrate, scores
from saccade.calibration.draw import data_hash, draw
from saccade.calibration.measures import ascending, cosine_distance, kl
from saccade.calibration.probes import PROBES, Probe
from saccade.calibration.scores import Scores

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
