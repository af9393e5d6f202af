"""Accuracy of plans, each question by its rule: intervals, the blind baseline, retention, paired differences.

``evaluate`` takes one plan, ``compare`` several.
"""

from __future__ import annotations

from saccade.evaluation.comparison import compare, evaluate
from saccade.evaluation.results import Comparison, Evaluation, Prediction, Score
from saccade.scoring import is_match, normalise

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
