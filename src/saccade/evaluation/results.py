"""What an evaluation found: predictions kept one by one, and the scores they add up to (pure)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from saccade.evaluation.statistics import (
    UNDEFINED,
    Interval,
    mcnemar,
    mean_of,
    mean_score,
    paired_difference,
    retention,
)


@dataclass(frozen=True)
class Prediction:
    """One answered question.

    Attributes:
        id: Identifier of the sample.
        task: Its task.
        answer: The reference.
        text: What the model said.
        correct: Whether it is worth full marks.
        score: What it is worth, from 0 to 1; 0 or 1 by ``correct`` if not given.
    """

    id: str
    task: str
    answer: str
    text: str
    correct: bool
    score: float = math.nan

    def __post_init__(self) -> None:
        if math.isnan(self.score):
            object.__setattr__(self, "score", float(self.correct))


@dataclass(frozen=True)
class Score:
    """Accuracy on one task, or its mean over tasks, beside the dense and the blind model.

    Attributes:
        n: Number of questions.
        accuracy: Mean score: the share of right answers where they are right or wrong.
        blind: Accuracy of the dense model on plain grey images; None if it was not run.
        retention: accuracy / dense accuracy.
        retention_above_blind: (accuracy - blind) / (dense accuracy - blind).
        difference: accuracy - dense accuracy, paired by question.
        gained: Questions that this plan answered better than the dense model.
        lost: Questions that the dense model answered better.
        p_value: McNemar's exact test of gained against lost (the sign test, where scores are fractional).
    """

    n: int
    accuracy: Interval
    blind: float | None
    retention: Interval
    retention_above_blind: Interval
    difference: Interval
    gained: int
    lost: int
    p_value: float

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary; limits of accuracy are ``low`` and ``high``, of others ``NAME_low`` ..."""
        out: dict[str, Any] = {"accuracy": self.accuracy.value, "n": self.n}
        out |= {"low": self.accuracy.low, "high": self.accuracy.high, "blind": self.blind}
        for name in ("retention", "retention_above_blind", "difference"):
            part: Interval = getattr(self, name)
            out |= {name: part.value, f"{name}_low": part.low, f"{name}_high": part.high}
        return out | {"gained": self.gained, "lost": self.lost, "p_value": self.p_value}


@dataclass(frozen=True)
class Evaluation:
    """How one plan answered.

    Attributes:
        name: What the caller calls it.
        spec: The plan as a spec string, resolved.
        tasks: Score of every task.
        mean: Mean over tasks, each of equal weight.
        predictions: Every answer, in the order of the samples.
        cost: Mean cost of a prompt: FLOPs ratio, KV bytes and their ratio, equivalent tokens.
    """

    name: str
    spec: str
    tasks: dict[str, Score]
    mean: Score
    predictions: tuple[Prediction, ...] = field(repr=False)
    cost: dict[str, float] = field(default_factory=dict)

    def to_dict(self, predictions: bool = False) -> dict[str, Any]:
        """Plain dictionary for JSON, with the answers one by one if asked."""
        out: dict[str, Any] = {
            "name": self.name,
            "spec": self.spec,
            "mean": self.mean.to_dict(),
            "tasks": {task: score.to_dict() for task, score in self.tasks.items()},
            "cost": dict(self.cost),
        }
        return out | {"predictions": [asdict(p) for p in self.predictions]} if predictions else out


@dataclass(frozen=True)
class Comparison:
    """Several plans on the same questions.

    Attributes:
        dense: The stock model.
        blind: The stock model on plain grey images; None if it was not run.
        plans: The plans by name, in the order they were asked for.
    """

    dense: Evaluation
    blind: Evaluation | None
    plans: dict[str, Evaluation]

    def to_dict(self, predictions: bool = False) -> dict[str, Any]:
        """Plain dictionary for JSON."""
        return {
            "dense": self.dense.to_dict(predictions),
            "blind": None if self.blind is None else self.blind.to_dict(predictions),
            "plans": [e.to_dict(predictions) for e in self.plans.values()],
        }


def score(
    name: str,
    spec: str,
    predictions: Sequence[Prediction],
    dense: Sequence[Prediction],
    blind: Sequence[Prediction] | None,
    cost: Mapping[str, float] | None = None,
) -> Evaluation:
    """Adds predictions up, paired by sample id with those of the dense and the blind model.

    Raises:
        ValueError: If ids repeat, or the three did not answer the same questions.
    """
    by_id = _index(predictions, name)
    partners = [_index(dense, "dense"), by_id if blind is None else _index(blind, "blind")]
    if any(set(partner) != set(by_id) for partner in partners):
        raise ValueError(f"{name}: dense, blind and plan must have answered the same questions")
    groups: dict[str, list[tuple[float, float, float]]] = {}
    for key, prediction in by_id.items():
        triple = (
            prediction.score,
            partners[0][key].score,
            0.0 if blind is None else partners[1][key].score,
        )
        groups.setdefault(prediction.task, []).append(triple)
    tasks = {task: _score([group], blind is not None) for task, group in groups.items()}
    mean = _score(list(groups.values()), blind is not None)
    return Evaluation(name, spec, tasks, mean, tuple(predictions), dict(cost or {}))


def _index(predictions: Sequence[Prediction], name: str) -> dict[str, Prediction]:
    twice = [key for key, count in Counter(p.id for p in predictions).items() if count > 1]
    if twice:
        raise ValueError(f"{name}: sample id {twice[0]!r} occurs more than once; ids must be distinct")
    return {p.id: p for p in predictions}


def _score(groups: list[list[tuple[float, float, float]]], has_blind: bool) -> Score:
    flat = [triple for group in groups for triple in group]
    gained = sum(a > d for a, d, _ in flat)
    lost = sum(d > a for a, d, _ in flat)
    return Score(
        n=len(flat),
        accuracy=mean_of([mean_score([a for a, _, _ in g]) for g in groups]),
        blind=sum(sum(b for _, _, b in g) / len(g) for g in groups) / len(groups) if has_blind else None,
        retention=retention(groups, above_blind=False),
        retention_above_blind=retention(groups, above_blind=True) if has_blind else UNDEFINED,
        difference=paired_difference([[(a, d) for a, d, _ in g] for g in groups]),
        gained=gained,
        lost=lost,
        p_value=mcnemar(gained, lost),
    )
