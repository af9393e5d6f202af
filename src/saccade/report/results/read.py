"""Result files as the report's records: each kind recognised by its fields, errors naming file and field."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from saccade import extensions
from saccade.core.shapes import SHAPES
from saccade.plans.plan import Plan
from saccade.report.results.files import (
    BenchFile,
    CostFile,
    EvaluationFile,
    ReportedRun,
    TrainingStepFile,
    taken,
    whole,
)
from saccade.report.results.model import ModelId, Planned, ReadComparison, Result, StudyText, Timed
from saccade.report.results.told import of_healing, of_tuning
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
        f"{name} is not a result file; saccade report takes what eval, tune, heal, demo, bench, cost and "
        "study write with --json, and plans of calibrate and tune"
    )


def _has(*keys: str) -> Callable[[Any], bool]:
    return lambda data: isinstance(data, dict) and all(key in data for key in keys)


def _is_bench(data: Any) -> bool:
    if isinstance(data, list):
        return bool(data) and all(isinstance(one, dict) and "prefill" in one for one in data)
    return isinstance(data, dict) and ("prefill" in data or data.get("kind") == "bench")


def read_evaluation(data: Any, path: str) -> Result:
    """What ``saccade eval``, ``saccade demo``, ``saccade study`` and the benchmarks of Glance write."""
    file = taken(EvaluationFile, data, path)
    told = None
    kind = (
        "gate"
        if file.lines is not None
        else "evaluation"
        if file.ratios is None
        else "methods at matched FLOPs"
    )
    if "study" in data:
        if not file.study:
            raise ValueError(f"{path}: study: the name of a study is needed")
        title = file.title or file.study
        told = StudyText(
            file.study, title, file.question, tuple(file.findings), *_own(file.study, data, path)
        )
        kind = f"study {file.study}"
    return _evaluated(file, kind, told, path)


def _evaluated(file: EvaluationFile, kind: str, told: StudyText | None, path: str) -> Result:
    return Result(path, kind, _model(file), file.provenance, {"": _comparison(file, path)}, told=told)


def _comparison(file: EvaluationFile, path: str) -> ReadComparison:
    if not file.dense.mean:
        raise ValueError(f"{path}: dense.mean: it is missing")
    listed, headline = [*file.plans, *file.rows], file.headline
    if isinstance(headline, dict):
        headline = [name for key in ("layers", "flops") for name in _listed(headline.get(key))]
    return ReadComparison(
        file.dense,
        tuple(one for one in listed if one.mean),
        tuple((one.name, one.reason) for one in listed if not one.mean),
        tuple(dict.fromkeys(str(name) for name in headline)) if isinstance(headline, list) else (),
        tuple((one.what, one.wanted, one.found, one.passed is True) for one in file.lines or ()),
    )


def _model(file: EvaluationFile) -> ModelId:
    name = "glance" if file.model.name == "Glance" else file.model.name
    # Where the file does not say how deep the model is, an order of its layers does.
    orders = [len(order) for order in file.orders.values() if isinstance(order, list)]
    layers = file.model.layers or max(orders, default=None)
    if layers is None and name in SHAPES:
        layers = SHAPES[name].layers
    prompt = (file.dense.cost[key] for key in ("visual_tokens", "text_tokens"))
    return ModelId(
        name,
        file.model.weights or file.weights_hash,
        layers,
        *(None if n is None else _rows(n) for n in prompt),
    )


def _rows(mean: float) -> int:
    """Rows of a prompt from their mean, within what a picture of a route can be made of."""
    return round(min(max(mean, 1), 10**5))


def _own(name: str, data: Any, path: str) -> tuple[str, Mapping[str, bytes]]:
    """Markdown and pictures (PNG) by the study's own hand; nothing where this version does not know it."""
    tellers = extensions.found(extensions.STUDIES)
    with whole(path, f"study {name}"):
        told = [teller.load()(name, data) for teller in tellers.values()]
    return next((one for one in told if one is not None), ("", {}))


def read_tuning(data: Any, path: str) -> Result:
    """What ``saccade tune`` writes beside its plan: the front on held-out samples, and all that was tried."""
    return _evaluated(taken(EvaluationFile, data, path), "tuning", of_tuning(data, path), path)


def read_healing(data: Any, path: str) -> Result:
    """What ``saccade heal`` writes: the plan before and after, on held-out questions."""
    return _evaluated(taken(EvaluationFile, data, path), "healing", of_healing(data, path), path)


def read_bench(data: Any, path: str) -> Result:
    """What ``saccade bench`` and the benchmarks of width write."""
    file = taken(BenchFile, {"plans": data} if isinstance(data, list) else data, path)
    runs = file.plans or file.runs or [taken(ReportedRun, data, path)]
    names = {run.name for run in runs}
    if len(names) > 1:
        raise ValueError(f"{path} has benches of several models: {', '.join(sorted(names))}")
    first = runs[0]
    model = ModelId(first.name, "", first.depth, first.visual, first.text)
    return Result(path, "bench", model, file.provenance or first.provenance, timed=tuple(map(_timed, runs)))


def _timed(run: ReportedRun) -> Timed:
    part = "" if run.layers == run.depth else f" of {run.depth}"
    setting = f"{run.layers}{part} layers, batch {run.batch}, {run.visual} + {run.text} rows"
    before, after = run.dense.peak_memory_bytes, run.planned.peak_memory_bytes
    memory = after / before if before and after is not None else None
    return Timed(
        run.plan,
        setting,
        run.prefill,
        run.decode,
        run.kv_ratio,
        memory,
        run.vision_s,
        run.vision_made_up is True,
    )


def read_training_step(data: Any, path: str) -> Result:
    """What ``benchmarks/skip_ffn_step.py`` writes: forward and backward take the place of the prefill."""
    file = taken(TrainingStepFile, data, path)
    setting = (
        f"a training step: {file.shape.layers} layers, batch {file.batch}, {file.visual} + {file.text} rows, "
        "forward and backward"
    )
    timed = tuple(Timed(run.plan, setting, run.numbers, {}, None, None, None, False) for run in file.runs)
    model = ModelId(file.shape.name, "", file.shape.layers, file.visual, file.text)
    return Result(path, "bench", model, file.provenance, timed=timed)


def read_cost(data: Any, path: str) -> Result:
    """What ``saccade cost`` writes."""
    file = taken(CostFile, data, path)
    model = ModelId(file.shape.name, "", file.shape.layers, file.visual, _rows(file.text))
    return Result(path, "cost", model, file.provenance, priced=tuple(file.plans))


def read_plan(data: Any, path: str) -> Result:
    """A plan file, or what ``saccade calibrate --json`` writes; its fields are checked as a plan's."""
    plan = Plan.from_dict(data.get("plan", data), path)
    facts, text = plan.calibration, plan.model.get("text") or {}
    model = ModelId(
        plan.model.get("model_type") or "any model", facts.get("weights_hash") or "", text.get("layers")
    )
    kept = ("date", "versions", "device", "dtype", "seed", "metric", "draw", "tasks", "data_hash", "asked")
    provenance = {key: facts[key] for key in kept if key in facts}
    return Result(path, "plan", model, provenance, planned=_planned(plan, facts))


def _planned(plan: Plan, facts: Mapping[str, Any]) -> Planned:
    scores, seed = facts.get("scores") or {}, facts.get("seed")
    tasks = ", ".join(map(str, _listed(facts.get("tasks")))) or "no named task"
    how = f"{facts.get('draw') or 'unknown'} draw, seed {'not recorded' if seed is None else seed}"
    drawn = f"{len(_listed(facts.get('samples')))} samples of {tasks} ({how})"
    samples = tuple(tuple(row) for row in _listed(scores.get("samples")))
    return Planned(plan, facts.get("metric") or "", tuple(_listed(scores.get("mean"))), samples, drawn)


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else ()


KINDS: tuple[tuple[Callable[[Any], bool], Callable[[Any, str], Result]], ...] = (
    (_has("study"), read_evaluation),
    (_has("tune", "dense"), read_tuning),
    (_has("heal", "dense"), read_healing),
    (lambda data: isinstance(data, dict) and data.get("kind") == "training step", read_training_step),
    (_is_bench, read_bench),
    (_has("shape", "plans", "tflops"), read_cost),
    (_has("dense"), read_evaluation),
    (_has("schema", "methods"), read_plan),
    (_has("plan", "spec", "out"), read_plan),
)
"""How to tell the kinds of files apart, and what reads each; the first that fits is taken."""
