"""Result files as the report's records: each kind recognised by its fields, errors naming file and field."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from saccade.plans.plan import Plan
from saccade.report.results.benches import read_bench, read_cost, read_training_step
from saccade.report.results.evaluations import MOST_LAYERS, read_comparison
from saccade.report.results.fields import Fields
from saccade.report.results.model import ModelId, Planned, Result
from saccade.report.results.studies import read_study
from saccade.report.results.tunes import read_tuning
from saccade.system.files import read_json


def read(path: str | os.PathLike) -> Result:
    """Reads a result file of any kind.

    Raises:
        ValueError: If it is missing, broken or of no known kind, naming it.
    """
    name = os.fspath(path)
    data = read_json(path)
    for fits, take in KINDS:
        if fits(data):
            try:
                return take(data, name)
            except ValueError as error:
                # What reads a plan names its field, not its file.
                raise error if name in str(error) else ValueError(f"{name}: {error}") from None
    raise ValueError(
        f"{name} is not a result file; saccade report takes what eval, tune, demo, bench, cost and "
        "study write with --json, and plans of calibrate and tune"
    )


def _has(*keys: str) -> Callable[[Any], bool]:
    return lambda data: isinstance(data, dict) and all(key in data for key in keys)


def _is_bench(data: Any) -> bool:
    if isinstance(data, list):
        return bool(data) and all(isinstance(one, dict) and "prefill" in one for one in data)
    return isinstance(data, dict) and ("prefill" in data or data.get("kind") == "bench")


def read_plan(data: Any, path: str) -> Result:
    """A plan file, or what ``saccade calibrate --json`` writes."""
    plan = Plan.from_dict(data.get("plan", data), path)
    facts = Fields.of(plan.calibration, f"{path}: calibration")
    model, text = Fields.of(plan.model, f"{path}: model"), Fields.of(plan.model, path).part("text")
    depth = None if text.maybe("layers") is None else text.count("layers", MOST_LAYERS)
    kept = ("date", "versions", "device", "dtype", "seed", "metric", "draw", "tasks", "data_hash", "asked")
    return Result(
        path,
        "plan",
        ModelId(
            model.text("model_type", "any model"),
            facts.text("weights_hash", ""),
            depth,
        ),
        {key: facts.data[key] for key in kept if key in facts.data},
        planned=_planned(plan, facts),
    )


def _planned(plan: Plan, facts: Fields) -> Planned:
    scores = facts.part("scores")
    mean = tuple(scores.numbers("mean"))
    rows = Fields.of(
        {str(i): row for i, row in enumerate(scores.items("samples"))}, f"{scores.where}: samples"
    )
    samples = tuple(tuple(rows.numbers(key)) for key in rows.data)
    if any(len(row) != len(mean) for row in samples):
        raise ValueError(f"{scores.where}: samples do not have the {len(mean)} layers of mean")
    tasks = ", ".join(map(str, facts.items("tasks"))) or "no named task"
    seed = facts.maybe("seed")
    drawn = (
        f"{len(facts.items('samples'))} samples of {tasks} ({facts.text('draw', 'unknown')} draw, seed "
        f"{'not recorded' if seed is None else int(seed)})"
    )
    return Planned(plan, facts.text("metric", ""), mean, samples, drawn)


KINDS: tuple[tuple[Callable[[Any], bool], Callable[[Any, str], Result]], ...] = (
    (_has("study"), read_study),
    (_has("tune", "dense"), read_tuning),
    (lambda data: isinstance(data, dict) and data.get("kind") == "training step", read_training_step),
    (_is_bench, read_bench),
    (_has("shape", "plans", "tflops"), read_cost),
    (_has("dense"), read_comparison),
    (_has("schema", "methods"), read_plan),
    (_has("plan", "spec", "out"), read_plan),
)
"""How to tell the kinds of files apart, and what reads each; the first that fits is taken."""
