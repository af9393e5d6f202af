"""What a healing came to, as values and as the plain data that files and pages are made of (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from saccade.evaluation.results import Comparison, Evaluation
from saccade.evaluation.statistics import Interval, mean_of, mean_score
from saccade.plans.plan import Plan

BEFORE, AFTER = "before", "after"
"""Names of the plan without its adapter and with it, in results."""


@dataclass(frozen=True)
class Healed:
    """The outcome of a healing.

    Attributes:
        plan: The plan with its adapter, as ``apply`` takes it.
        found: Scores of the dense model, of the plan before and of the plan after, on held-out questions.
        data: Everything that the result file holds.
        files: What was written, by name: ``plan``, ``adapter``, ``result``, and ``model`` and ``model_plan``
            where it was merged.
    """

    plan: Plan
    found: Comparison
    data: Mapping[str, Any]
    files: Mapping[str, Path] = field(default_factory=dict)

    @property
    def before(self) -> Evaluation:
        """The plan without the adapter."""
        return self.found.plans[BEFORE]

    @property
    def after(self) -> Evaluation:
        """The plan with it."""
        return self.found.plans[AFTER]


def agreement(found: Comparison, name: str) -> Interval:
    """Share of the held-out answers that are the dense model's, word for word, tasks of equal weight.

    Args:
        found: The scores.
        name: The plan.
    """
    by_task: dict[str, list[float]] = {}
    pairs = zip(found.plans[name].predictions, found.dense.predictions, strict=True)
    for mine, dense in pairs:
        by_task.setdefault(mine.task, []).append(float(mine.text == dense.text))
    return mean_of([mean_score(same) for same in by_task.values()])


def spent(history: Sequence[Mapping[str, Any]], steps: int, every: int) -> dict[str, Any]:
    """What the steps took.

    Args:
        history: Lines of metrics.
        steps: Steps of the run.
        every: Steps per line.
    """
    lengths = [every] * (len(history) - 1) + [steps - every * (len(history) - 1)]
    seconds = sum(line["step_seconds"] * length for line, length in zip(history, lengths, strict=True))
    return {
        "steps": steps,
        "seconds": seconds,
        "step_seconds": seconds / steps,
        "kl_first": history[0]["loss"],
        "kl_last": history[-1]["loss"],
    }
