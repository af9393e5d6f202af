"""The plan that fits a model, some samples and a budget: searched, measured, judged on samples not seen."""

from __future__ import annotations

from saccade.tuning.prepare import Watch
from saccade.tuning.result import Tuned
from saccade.tuning.run import tune
from saccade.tuning.settings import Settings

__all__ = ["Settings", "Tuned", "Watch", "tune"]
