"""What an evaluation by lmms-eval left: official metrics of every task, and scores of single answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from saccade.evaluation.results import Prediction
from saccade.evaluation.statistics import UNDEFINED, Z95, Interval
from saccade.system.files import read_json


@dataclass(frozen=True)
class TaskOutcome:
    """One task.

    Attributes:
        name: The task.
        n: Number of questions.
        metric: What its answers were scored by: the first of its metrics that its answers have.
        metrics: Its official metrics by name.
        accuracy: Its main metric where that is a share, with the limits of lmms-eval's standard error.
        predictions: Its answers with their scores from 0 to 1; empty where single scores are not in the logs.
    """

    name: str
    n: int
    metric: str
    metrics: dict[str, float]
    accuracy: Interval
    predictions: tuple[Prediction, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TaskOutcome:
        """Reads what ``to_dict`` wrote."""
        known = dict(data) | {"accuracy": Interval(**data["accuracy"])}
        return cls(**known | {"predictions": tuple(Prediction(**each) for each in data["predictions"])})


def read_outcome(path: Path) -> dict[str, TaskOutcome]:
    """Reads a results file and the samples beside it, by task.

    Raises:
        ValueError: If the file is not one of lmms-eval's, or holds no task.
    """
    data = read_json(path)
    try:
        found = {name: _task(path, data, name) for name in data["configs"]}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is not a results file of lmms-eval ({type(error).__name__}: {error})"
        ) from None
    if not found:
        raise ValueError(f"lmms-eval evaluated no task ({path})")
    return found


def _task(path: Path, data: Mapping[str, Any], name: str) -> TaskOutcome:
    rows, order = data["results"][name], [str(m["metric"]) for m in data["configs"][name]["metric_list"]]
    metrics: dict[str, float] = {}
    errors: dict[str, float] = {}
    for key, value in rows.items():
        metric, _, kept = key.partition(",")
        if kept and isinstance(value, int | float) and not isinstance(value, bool):
            (errors if "_stderr" in metric else metrics).setdefault(metric, float(value))
    samples = _samples(path.with_name(path.name.replace("_results.json", f"_samples_{name}.jsonl")))
    scored = [_score(sample, order) for sample in samples]
    named = dict.fromkeys(metric for each in scored if each is not None for metric in [each[0]])
    main = next((metric for metric in order if metric in metrics), order[0] if order else "")
    predictions = tuple(
        Prediction(f"{name}/{s['doc_id']}", name, str(s.get("target", "")), _said(s), each[1] == 1, each[1])
        for s, each in zip(samples, scored, strict=True)
        if each is not None
    )
    if len({p.id for p in predictions}) < len(samples):
        predictions = ()
    n = data["n-samples"][name]["effective"]
    value, error = metrics.get(main), errors.get(f"{main}_stderr", 0.0)
    share = UNDEFINED
    if value is not None and 0 <= value <= 1:
        share = Interval(value, max(0.0, value - Z95 * error), min(1.0, value + Z95 * error))
    return TaskOutcome(name, int(n), " + ".join(named) if predictions else main, metrics, share, predictions)


def _samples(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return sorted((json.loads(line) for line in lines if line.strip()), key=lambda sample: sample["doc_id"])


def _score(sample: Mapping[str, Any], order: list[str]) -> tuple[str, float] | None:
    """The first metric that scores an answer from 0 to 1, alone or under ``score``, and that score."""
    for metric in order:
        value = sample.get(metric)
        if isinstance(value, Mapping):
            value = value.get("score")
        if isinstance(value, int | float) and 0 <= value <= 1:
            return metric, float(value)
    return None


def _said(sample: Mapping[str, Any]) -> str:
    said = sample.get("filtered_resps", "")
    return said if isinstance(said, str) else str(said[0] if said else "")
