"""Which layers can lose their visual computation, measured on a few samples.

``calibrate`` gives a plan; ``scores`` stops before a budget is applied.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from saccade.system.lazy import attributes

if TYPE_CHECKING:
    from saccade.calibration.api import calibrate, scores
    from saccade.calibration.drawing import data_hash, draw
    from saccade.calibration.layer_scores import Scores
    from saccade.calibration.measures import ascending, cosine_distance, kl
    from saccade.calibration.options import ETA, CalibrationOptions
    from saccade.calibration.probes import PROBES, Probe

__all__ = [
    "ETA",
    "PROBES",
    "CalibrationOptions",
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

# A wrong option is refused before transformers is imported.
__getattr__ = attributes(
    __name__,
    {
        **dict.fromkeys(("calibrate", "scores"), "saccade.calibration.api"),
        **dict.fromkeys(("data_hash", "draw"), "saccade.calibration.drawing"),
        "Scores": "saccade.calibration.layer_scores",
        **dict.fromkeys(("ascending", "cosine_distance", "kl"), "saccade.calibration.measures"),
        **dict.fromkeys(("ETA", "CalibrationOptions"), "saccade.calibration.options"),
        **dict.fromkeys(("PROBES", "Probe"), "saccade.calibration.probes"),
    },
)
