"""``saccade eval``: accuracy of plans beside the stock model, by task, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saccade.cli import common

if TYPE_CHECKING:
    from saccade.evaluation import Comparison, Evaluation
    from saccade.models import Loaded
    from saccade.plan import Plan
    from saccade.samples import Sample

SUITE_SAMPLES = 100


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("eval")(evaluate)


def evaluate(
    model: common.Model = "glance",
    plan: Annotated[
        list[str] | None,
        typer.Option(
            "--plan", metavar="PLAN", help="A plan file or a spec such as 'vskip(budget=4)'; repeatable."
        ),
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option("--task", metavar="NAME", help="A task of Glance's suite; repeatable; all if omitted."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Your own JSONL: image(s), question, answer, optional task."),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(min=1, help=f"Questions of each task; {SUITE_SAMPLES}, or all of --data, if omitted."),
    ] = None,
    order: Annotated[
        list[Path] | None,
        typer.Option(
            "--order", metavar="FILE", help="Plan file whose calibrated order serves budget= and flops=."
        ),
    ] = None,
    blind: Annotated[
        bool, typer.Option("--blind/--no-blind", help="Also ask with plain grey images.")
    ] = True,
    batch: Annotated[int, typer.Option(min=1, help="Questions per batch.")] = 32,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 24,
    predictions: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write every answer as JSON.")
    ] = None,
    seed: common.Seed = 0,
    force: common.Force = False,
    device: common.Device = None,
    dtype: common.Dtype = None,
    json: common.Json = None,
) -> None:
    """Exact-match accuracy of plans, paired with the stock model on the same questions.

    Plans with budget= or flops= get their layers from a quick calibration (20 samples) or from --order.
    With --json FILE an interrupted run goes on where it was when the command is repeated.

    Example: saccade eval glance --plan 'vskip(budget=4)' --plan 'shortv(budget=4)' --task count
    """
    out = common.Output(json)
    if predictions is not None:
        common.check_writable(predictions)
    from saccade.evaluation.comparison import compare, name_plans
    from saccade.evaluation.orders import read_orders
    from saccade.measure import record

    wanted = name_plans(plan or [])
    orders = read_orders(order or [])
    where = common.read_device(device)
    questions = read_questions(task or [], data, samples, "test", seed)
    from saccade import models

    loaded = models.load(model, dtype=common.read_dtype(dtype), device=str(where))
    wanted, found_orders = resolve(loaded, wanted, orders, task or [], data, questions, seed, force)
    ledger = None if json in (None, "-") else Path(f"{json}.partial.jsonl")
    with common.resumable(
        f"repeat the command to go on from {ledger}" if ledger else "give --json to resume"
    ):
        found = compare(
            loaded.model,
            loaded.processor,
            questions,
            wanted,
            batch_size=batch,
            max_new_tokens=max_new_tokens,
            blind=blind,
            ledger=ledger,
        )
    show(out, found)
    settings = {
        "model": model,
        "data": str(data) if data else "glance suite",
        "max_new_tokens": max_new_tokens,
    }
    result = found.to_dict() | settings | {"orders": found_orders}
    out.finish(result | {"provenance": record(device=where, dtype=loaded.model.dtype, seed=seed)})
    if predictions is not None:
        write_predictions(predictions, found)
    if ledger is not None:
        ledger.unlink(missing_ok=True)


def read_questions(
    tasks: Sequence[str], data: Path | None, samples: int | None, split: str, seed: int
) -> list[Sample]:
    """Questions of the suite's tasks or of the user's file, at most ``samples`` of each task.

    Raises:
        ValueError: If both are asked for, or one cannot be read.
    """
    if data is not None:
        if tasks:
            raise ValueError("give --task or --data, not both")
        from saccade.data import load_jsonl

        return thin(load_jsonl(data), samples, seed)
    from saccade.glance import suite

    names: list[str | None] = [*dict.fromkeys(tasks)] or [None]
    scenes = seed % (1 << 16)
    return [s for name in names for s in suite.samples(name, samples or SUITE_SAMPLES, split, scenes)]


def thin(questions: Sequence[Sample], most: int | None, seed: int) -> list[Sample]:
    """At most so many questions of each task, drawn with the seed, in the order they were in."""
    import random

    if most is None:
        return list(questions)
    by_task: dict[str, list[int]] = {}
    for index, sample in enumerate(questions):
        by_task.setdefault(sample.task, []).append(index)
    rng = random.Random(seed)
    kept = {i for group in by_task.values() for i in rng.sample(group, min(most, len(group)))}
    return [sample for index, sample in enumerate(questions) if index in kept]


def resolve(
    loaded: Loaded,
    plans: dict[str, Plan],
    orders: dict[str, Sequence[int]],
    tasks: Sequence[str],
    data: Path | None,
    questions: Sequence[Sample],
    seed: int,
    force: bool,
) -> tuple[dict[str, Plan], dict[str, list[int]]]:
    """Plans with their layers, and the orders that chose them; calibrates for the scores that are missing."""
    from saccade.engine import apply
    from saccade.evaluation.orders import calibrated, resolve_all, wanted_scores

    for plan in plans.values():
        if plan.model and not force:
            apply(loaded.model, replace(plan, methods=())).remove()  # refuses plans of another model
    missing = [score for score in wanted_scores(plans) if score not in orders]
    if missing:
        # A file has no split of its own; its answers are not used.
        pool = (
            list(questions)
            if data
            else read_questions(tasks, None, 4 if not tasks else 20, "calibration", seed)
        )
        with common.progress() as bar:
            line = bar.add_task(f"calibrating ({', '.join(missing)})", total=None)
            found = calibrated(
                loaded, pool, missing, seed=seed,
                progress=lambda done, total: bar.update(line, completed=done, total=total),
            )  # fmt: skip
        orders = orders | {name: scores.order for name, scores in found.items()}
    resolved = resolve_all(loaded, plans, orders, questions)
    if force:
        resolved = {name: replace(plan, model={}) for name, plan in resolved.items()}
    return resolved, {name: list(order) for name, order in orders.items()}


def show(out: common.Output, found: Comparison) -> None:
    """Prints accuracy by task, and what the plans cost and kept."""
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    from saccade.report.text import interval, percent, points

    plans = list(found.plans.values())
    view = Table("task", "n", "blind", "dense", *(escape(e.name) for e in plans))
    for name, dense in [*found.dense.tasks.items(), ("mean", found.dense.mean)]:
        scores = [e.mean if name == "mean" else e.tasks[name] for e in plans]
        if name == "mean":
            view.add_section()
        cells = [interval(s.to_dict(), "accuracy") for s in (dense, *scores)]
        view.add_row(name, str(dense.n), percent(dense.blind), *cells)
    out.table(view)
    if plans:
        kept = Table("plan", "layers", "against dense", "retention", "above blind", "FLOPs", "KV cache")
        for e in plans:
            mean = e.mean.to_dict()
            low, high = points(mean["difference_low"]), points(mean["difference_high"])
            kept.add_row(
                Text(e.name),
                Text(e.spec),
                f"{points(mean['difference'])} ({low} to {high})",
                interval(mean, "retention"),
                interval(mean, "retention_above_blind"),
                percent(e.cost["flops_ratio"]),
                percent(e.cost["kv_ratio"]),
            )
        out.table(kept)
    out.line("exact match; in brackets 95 % intervals, against dense in points, paired by question")


def write_predictions(path: Path, found: Comparison) -> None:
    """Writes every answer of dense, blind and the plans as JSON."""
    from saccade.files import write_json

    runs: list[Evaluation] = [found.dense, *([found.blind] if found.blind else []), *found.plans.values()]
    rows: list[dict[str, Any]] = [
        {"plan": e.name, "spec": e.spec, "predictions": [asdict(p) for p in e.predictions]} for e in runs
    ]
    write_json(path, rows)
