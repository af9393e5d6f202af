"""Accuracy of plans, each question by its rule: intervals, the blind baseline, retention, paired differences.

``evaluate`` takes one plan, ``compare`` several.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from saccade.system.lazy import attributes

if TYPE_CHECKING:
    from saccade.evaluation.comparison import compare, evaluate
    from saccade.evaluation.options import EvaluationOptions
    from saccade.evaluation.results import Comparison, Evaluation, Prediction, Score
    from saccade.scoring import is_match, normalise

__all__ = [
    "Comparison",
    "Evaluation",
    "EvaluationOptions",
    "Prediction",
    "Score",
    "compare",
    "evaluate",
    "is_match",
    "normalise",
]

# Tables and options need no model, whose classes take long to import.
__getattr__ = attributes(
    __name__,
    {
        **dict.fromkeys(("compare", "evaluate"), "saccade.evaluation.comparison"),
        "EvaluationOptions": "saccade.evaluation.options",
        **dict.fromkeys(("Comparison", "Evaluation", "Prediction", "Score"), "saccade.evaluation.results"),
        **dict.fromkeys(("is_match", "normalise"), "saccade.scoring"),
    },
)
