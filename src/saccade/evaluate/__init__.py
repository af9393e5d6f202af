"""Accuracy of plans by exact match: intervals, the blind baseline, retention, paired differences.

``saccade.evaluate(...)`` is the function of the same name; ``saccade.evaluate.compare(...)`` takes
several plans.
"""

from __future__ import annotations

import sys
import types
from typing import Any

from saccade.evaluate.comparison import compare, evaluate
from saccade.evaluate.results import Comparison, Evaluation, Prediction, Score
from saccade.evaluate.scoring import is_match, normalise

__all__ = [
    "Comparison",
    "Evaluation",
    "Prediction",
    "Score",
    "compare",
    "evaluate",
    "is_match",
    "normalise",
]


class _Callable(types.ModuleType):
    """Importing this package binds its name in ``saccade``, over the function of the same name."""

    def __call__(self, *args: Any, **kwargs: Any) -> Evaluation:
        return evaluate(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
