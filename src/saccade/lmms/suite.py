"""The stock model, the blind one and every plan, each judged by lmms-eval (``saccade eval --suite``)."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from saccade._version import __version__
from saccade.engine import VERSION
from saccade.evaluation.results import score
from saccade.evaluation.runner import BLIND, DENSE
from saccade.evaluation.statistics import Interval, mean_of
from saccade.lmms.outcome import TaskOutcome, read_outcome
from saccade.lmms.process import Job, run
from saccade.lmms.tasks import Suite
from saccade.plans.plan import Plan
from saccade.system.files import read_json, write_json


@dataclass(frozen=True)
class SuiteColumn:
    """One model's outcome.

    Attributes:
        tasks: By name.
        cost: Mean cost of a prompt.
        place: Folder in which it is kept.
    """

    tasks: dict[str, TaskOutcome]
    cost: dict[str, float]
    place: Path


def evaluate_suite(
    suite: Suite,
    job: Job,
    plans: Mapping[str, Plan],
    *,
    blind: bool = True,
    force: bool = False,
    strict: bool = False,
    note: Callable[[str], None] = lambda text: None,
) -> dict[str, SuiteColumn]:
    """Judges a model, blind and under plans, by lmms-eval.

    Args:
        suite: What is asked.
        job: The model and how it is run. Everything is written to its folder, and what is finished there
            already is not done again.
        plans: Resolved plans by name.
        blind: Whether the stock model is asked over plain grey images too.
        force: Whether plans of other models are used.
        strict: Whether plans for other weights are refused.
        note: Told what is done next.

    Returns:
        What came of the stock model (``dense``), of the blind one (``blind``) and of every plan, by its key.

    Raises:
        ValueError: If a plan does not know its layers, or lmms-eval fails.
    """
    for name, plan in plans.items():
        if not plan.is_resolved:
            raise ValueError(
                f"plan {name!r} does not know its layers, which --suite does not look for: calibrate it "
                "(saccade calibrate) and give the plan file, or give layers=..."
            )
    runs: dict[str, Plan] = {DENSE: Plan()} | ({BLIND: Plan()} if blind else {})
    runs |= {plan.key: plan for plan in plans.values() if plan.methods}
    columns: dict[str, SuiteColumn] = {}
    include: Path | None = None
    for number, (key, plan) in enumerate(runs.items(), start=1):
        place = job.output / _digest(suite, job, key, plan, force)
        kept = _kept(place)
        if kept is None:
            include = include or suite.write_own(job.output / "tasks")
            note(f"{key} ({number} of {len(runs)})")
            told = {"force": "true"} if force else {"strict": "true"} if strict else {}
            kept = _column(replace(job, include=include), place, key == BLIND, plan, told)
        columns[key] = kept
    return columns


def _column(job: Job, place: Path, blind: bool, plan: Plan, told: dict[str, str]) -> SuiteColumn:
    # What an interrupted run left of a column is not trusted.
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    costs = place / "cost"
    arguments = job.arguments | {"record": str(costs)}
    if blind:
        arguments |= {"blind": "true"}
    if plan.methods:
        arguments |= {"plan": str(plan.save(place / "plan.json"))} | told
    path = run(replace(job, arguments=arguments, output=place / "lmms"))
    costs_found = merge_costs([read_json(p) for p in sorted(costs.glob("cost-*.json"))])
    found = SuiteColumn(read_outcome(path), costs_found, place)
    tasks = {name: task.to_dict() for name, task in found.tasks.items()}
    write_json(place / "column.json", {"tasks": tasks, "cost": found.cost})
    return found


def _kept(place: Path) -> SuiteColumn | None:
    if not (place / "column.json").is_file():
        return None
    data = read_json(place / "column.json")
    tasks = {name: TaskOutcome.from_dict(task) for name, task in data["tasks"].items()}
    return SuiteColumn(tasks, data["cost"], place)


def forget(folder: Path, columns: Mapping[str, SuiteColumn]) -> None:
    """Removes what was kept of these columns; those of interrupted runs of other settings stay."""
    for column in columns.values():
        shutil.rmtree(column.place, ignore_errors=True)
    if not any((place / "column.json").exists() for place in folder.iterdir()):
        shutil.rmtree(folder, ignore_errors=True)


def _digest(suite: Suite, job: Job, key: str, plan: Plan, force: bool) -> str:
    """A name for a column that changes with everything its answers depend on."""
    model = Path(job.arguments["pretrained"])
    files = sorted(model.glob("*.*")) if model.is_dir() else []
    stamps = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    settings: list[Any] = [
        __version__,
        asdict(suite),
        job.arguments,
        job.limit,
        job.max_new_tokens,
        job.device,
    ]
    settings += [key, plan.to_dict(), force, stamps]
    # Raised with the behaviour of what answers; those that never were are left out, for older columns.
    numbers = {"engine": VERSION} | {method.name: method.version for method in plan.methods}
    settings += [f"{name} {number}" for name, number in sorted(numbers.items()) if number != 1]
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def merge_costs(notes: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Mean cost of a prompt over what several processes noted; empty where none noted any."""
    known = [(note["prompts"], note["cost"]) for note in notes if note["prompts"]]
    total = sum(count for count, _ in known)
    if not total:
        return {}
    mean = {name: sum(count * cost[name] for count, cost in known) / total for name in known[0][1]}
    for ratio, part in (("flops_ratio", "gflops"), ("kv_ratio", "kv_bytes")):
        mean[ratio] = mean[part] / mean[f"dense_{part}"]
    return mean


def tally(columns: Mapping[str, SuiteColumn], plans: Mapping[str, Plan]) -> dict[str, Any]:
    """``dense``, ``blind`` and ``plans`` as ``saccade eval`` writes them, with every task's official metrics.

    They are paired with the stock model by question where lmms-eval's logs score single answers.
    """
    dense, blind = columns[DENSE], columns.get(BLIND)

    def entry(name: str, spec: str, column: SuiteColumn) -> dict[str, Any]:
        return _entry(name, spec, column, dense, blind)

    return {
        "dense": entry(DENSE, DENSE, dense),
        "blind": None if blind is None else entry(BLIND, DENSE, blind),
        "plans": [entry(name, p.spec, columns[p.key if p.methods else DENSE]) for name, p in plans.items()],
    }


def _entry(
    name: str, spec: str, column: SuiteColumn, dense: SuiteColumn, blind: SuiteColumn | None
) -> dict[str, Any]:
    every = [c.tasks for c in (column, dense, *([blind] if blind else []))]
    single = [task for task in column.tasks if all(tasks[task].predictions for tasks in every)]
    told = [[p for task in single for p in tasks[task].predictions] for tasks in every]
    found = score(name, spec, told[0], told[1], told[2] if blind else None) if single else None
    tasks = {}
    for task, outcome in column.tasks.items():
        if found is not None and task in single:
            main = found.tasks[task].to_dict()
        else:
            main = _official(*(tasks_of[task] for tasks_of in every))
        tasks[task] = main | {"metric": outcome.metric, "metrics": outcome.metrics}
    if found is not None and len(single) == len(column.tasks):
        mean = found.mean.to_dict()
    else:
        whole = mean_of([Interval(t["accuracy"], t["low"], t["high"]) for t in tasks.values()])
        mean = _unpaired(whole, sum(t["n"] for t in tasks.values()))
    return {"name": name, "spec": spec, "mean": mean, "tasks": tasks, "cost": column.cost}


def answers(columns: Mapping[str, SuiteColumn], plans: Mapping[str, Plan]) -> list[dict[str, Any]]:
    """Every answer that was scored alone, as ``saccade eval --predictions`` writes them."""
    runs = {key: (DENSE, columns[key]) for key in (DENSE, BLIND) if key in columns}
    runs |= {name: (p.spec, columns[p.key if p.methods else DENSE]) for name, p in plans.items()}
    return [
        {
            "plan": name,
            "spec": spec,
            "predictions": [asdict(p) for task in column.tasks.values() for p in task.predictions],
        }
        for name, (spec, column) in runs.items()
    ]


def _official(task: TaskOutcome, dense: TaskOutcome, blind: TaskOutcome | None = None) -> dict[str, Any]:
    """A task whose answers are not scored one by one: what can be said of its main metric alone."""
    mine, stock = task.accuracy.value, dense.accuracy.value
    guess = None if blind is None else blind.accuracy.value
    out = _unpaired(task.accuracy, task.n) | {"blind": guess}
    if mine is not None and stock is not None:
        out |= {"difference": mine - stock, "retention": mine / stock if stock > 0 else None}
        if guess is not None and stock > guess:
            out["retention_above_blind"] = (mine - guess) / (stock - guess)
    return out


def _unpaired(accuracy: Interval, n: int) -> dict[str, Any]:
    paired = ("retention", "retention_above_blind", "difference")
    out: dict[str, Any] = {"accuracy": accuracy.value, "n": n, "low": accuracy.low, "high": accuracy.high}
    out |= {"blind": None} | {f"{name}{end}": None for name in paired for end in ("", "_low", "_high")}
    return out | {"gained": None, "lost": None, "p_value": None}
