"""``saccade eval``: accuracy of plans beside the stock model, by task, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saccade.cli import common
from saccade.cli.accuracy import show
from saccade.cli.drawn import of_suite
from saccade.cli.opening import opened, opens
from saccade.opening.settings import Opening
from saccade.system.embedded import GLANCE, Embedded, suite_of

if TYPE_CHECKING:
    from saccade.evaluation import Comparison, Evaluation
    from saccade.inputs.samples import Sample
    from saccade.models import Loaded
    from saccade.plans.plan import Plan
    from saccade.system.journal import Journal

SUITE_SAMPLES = 100
NEW_TOKENS = 24


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("eval")(opens(evaluate))


def evaluate(
    model: common.Model = "glance",
    plan: Annotated[
        list[str] | None,
        typer.Option(metavar="PLAN", help="A plan file or a spec such as 'vskip(budget=4)'; repeatable."),
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A task of Glance's suite; repeatable; all if omitted."),
    ] = None,
    data: Annotated[Path | None, common.questions("image(s), question, answer, perhaps task, score")] = None,
    score: Annotated[
        str | None,
        typer.Option(
            metavar="RULE",
            help="How --data is scored where a line does not say: exact, contains, anls, option, yes_no, "
            "number, or with a parameter, number(tolerance=0.1); exact if omitted.",
        ),
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(
            metavar="lmms:TASK,...",
            help="Official benchmarks by lmms-eval, or lmms:glance, instead of our own evaluation.",
        ),
    ] = None,
    samples: Annotated[
        int | None,
        common.count(
            f"Questions of each task; if omitted {SUITE_SAMPLES}, or all of --data or of a benchmark.",
            common.MOST_SAMPLES,
        ),
    ] = None,
    order: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Plan file whose calibrated order serves budget= and flops=."),
    ] = None,
    blind: Annotated[
        bool, typer.Option("--blind/--no-blind", help="Also ask with plain grey images.")
    ] = True,
    batch: Annotated[int, common.count("Questions per batch.", common.MOST_BATCH)] = 32,
    max_new_tokens: Annotated[
        int | None,
        common.count(
            f"Longest answer; {NEW_TOKENS}, or what a benchmark says, if omitted.", common.MOST_TOKENS
        ),
    ] = None,
    processes: common.Processes = 1,
    ray: common.Ray = None,
    keep: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Keep what lmms-eval writes; with --suite only."),
    ] = None,
    predictions: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write every answer as JSON.")
    ] = None,
    seed: common.Seed = 0,
    force: common.Force = False,
    strict: common.Strict = False,
    threads: common.Threads = None,
    opening: Opening = Opening(),
    json: common.Json = None,
) -> None:
    """Accuracy of plans, paired with the stock model on the same questions.

    Plans with budget= or flops= get their layers from a quick calibration (20 samples) or from --order.
    With --json FILE an interrupted run goes on where it was when the command is repeated. What was answered
    with other weights, questions, --dtype or --max-new-tokens is kept beside it, for that run to go on.

    Example: saccade eval glance --plan 'vskip(budget=4)' --plan 'shortv(budget=4)' --task count
    """
    out = common.Output(json)
    own = data is None and suite is None
    files = [data, *(order or [])] if suite is None else []
    common.check_names(model, plan or [], task or [] if own else [], opening, files)
    common.hold(json)
    if predictions is not None:
        common.check_writable(predictions)
    if suite is not None and ray is not None:
        raise ValueError("--ray cannot be used with --suite: lmms-eval's processes are on this machine")
    common.reach(ray, processes)
    if suite is not None:
        unused = {"--task": task, "--data": data, "--order": order, "--score": score}
        check_unused(unused, "--suite, which takes lmms-eval's own tasks, data and scores")
        from saccade.cli.suite import judge

        judge(
            out,
            suite,
            model,
            plan or [],
            samples=samples,
            blind=blind,
            batch=batch,
            max_new_tokens=max_new_tokens,
            processes=processes,
            keep=keep,
            predictions=predictions,
            seed=seed,
            force=force,
            strict=strict,
            opening=opening,
        )
        return
    check_unused({"--keep": keep}, "our own evaluation")
    if score is not None and data is None:
        raise ValueError("--score is for --data; the embedded suite is scored by exact match")
    from saccade.evaluation.options import EvaluationOptions
    from saccade.scoring import parse

    parse(score or "exact")
    options = EvaluationOptions(batch, max_new_tokens or NEW_TOKENS, blind)
    from saccade.evaluation.asked import name_plans, read_orders, seen_before

    wanted = name_plans(plan or [])
    orders = read_orders(order or [])
    where = opening.torch_device()
    embedded = suite_of(model)
    questions = read_questions(task or [], data, samples, "test", seed, score or "exact", embedded)
    from saccade.engine import check_made_for
    from saccade.evaluation.comparison import compare
    from saccade.evaluation.orders import wanted_scores
    from saccade.helpers import helping
    from saccade.measure import record
    from saccade.opening.digest import weights_digest
    from saccade.plans.plan import Plan

    common.use_threads(threads or common.shared_threads(processes, ray))
    loaded = opened(model, opening)
    made = {name: one.calibration for name, one in wanted.items()}
    for path in order or []:
        chosen = Plan.load(path)
        made[f"the order of {path}"] = chosen.calibration
        check_made_for(loaded.model, chosen, force=force, strict=strict)
    own = data is not None and any(score not in orders for score in wanted_scores(wanted))
    journal = common.keep(common.partial_of(json))
    kept = journal.path
    with common.resumable(f"repeat the command to go on from {kept}" if kept else "give --json to resume"):
        wanted, found_orders = resolve(
            loaded, wanted, orders, task or [], data, questions, seed, force, strict, journal, embedded
        )
        with helping(loaded, processes, opening, ray=ray, say=out.note) as helpers:
            found = compare(
                loaded.model, loaded.processor, questions, wanted, options, ledger=journal, helpers=helpers
            )
    scores = dict.fromkeys(question.score for question in questions)
    show(out, found.to_dict(), " and ".join("exact match" if s == "exact" else s for s in scores))
    seen = seen_before(made, questions)
    for name, number in seen.items():
        out.line(
            f"{name}: made on {number} of these {len(questions)} questions, so it may keep less on others; "
            "judge it on questions that it has not seen"
        )
    if own:
        out.line("layers of budgets were chosen on some of these questions, their answers aside")
    settings = {
        "model": model,
        "weights_hash": weights_digest(loaded.model),  # by which a report finds what else is of this model
        "data": str(data) if data else f"{embedded.name} suite",
        "max_new_tokens": options.max_new_tokens,
        "scores": list(scores),
    }
    result = found.to_dict() | settings | {"orders": found_orders, "seen_before": seen}
    out.finish(result | {"provenance": record(model=loaded.model, device=where, seed=seed)})
    if predictions is not None:
        write_predictions(predictions, found)
    out.note(journal.finish())


def read_questions(
    tasks: Sequence[str],
    data: Path | None,
    samples: int | None,
    split: str,
    seed: int,
    score: str = "exact",
    embedded: Embedded = GLANCE,
) -> list[Sample]:
    """Questions of the suite's tasks or of the user's file, at most ``samples`` of each task.

    Raises:
        ValueError: If both are asked for, or one cannot be read.
    """
    if data is not None:
        if tasks:
            raise ValueError("give --task or --data, not both")
        from saccade.inputs.data import load_jsonl

        return thin(load_jsonl(data, score, answered=True), samples, seed)
    return of_suite(tasks, samples or SUITE_SAMPLES, split, seed, embedded)


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
    strict: bool = False,
    journal: Journal | None = None,
    embedded: Embedded = GLANCE,
) -> tuple[dict[str, Plan], dict[str, list[int]]]:
    """Plans with their layers, and the orders that chose them; calibrates for the scores that are missing."""
    from saccade.engine import check_made_for
    from saccade.evaluation.orders import calibrated, resolve_all, wanted_scores

    for plan in plans.values():
        check_made_for(loaded.model, plan, force=force, strict=strict)
    missing = [score for score in wanted_scores(plans) if score not in orders]
    if missing:
        # A file has no split of its own; its answers are not used.
        pool = (
            list(questions)
            if data
            else read_questions(tasks, None, 4 if not tasks else 20, "calibration", seed, embedded=embedded)
        )
        with common.progress() as bar:
            line = bar.add_task(f"calibrating ({', '.join(missing)})", total=None)
            found = calibrated(
                loaded, pool, missing, seed=seed, ledger=journal,
                progress=lambda done, total: bar.update(line, completed=done, total=total),
            )  # fmt: skip
        orders = orders | {name: scores.order for name, scores in found.items()}
    resolved = resolve_all(loaded, plans, orders, questions)
    if force:
        resolved = {name: plan.for_any() for name, plan in resolved.items()}
    return resolved, {name: list(order) for name, order in orders.items()}


def check_unused(options: dict[str, Any], where: str) -> None:
    """Refuses options that would have no effect.

    Raises:
        ValueError: If one was given.
    """
    given = [name for name, value in options.items() if value]
    if given:
        raise ValueError(f"{', '.join(given)} cannot be used with {where}")


def write_predictions(path: Path, found: Comparison) -> None:
    """Writes every answer of dense, blind and the plans as JSON."""
    from saccade.system.files import write_json

    runs: list[Evaluation] = [found.dense, *([found.blind] if found.blind else []), *found.plans.values()]
    rows: list[dict[str, Any]] = [
        {"plan": e.name, "spec": e.spec, "predictions": [asdict(p) for p in e.predictions]} for e in runs
    ]
    write_json(path, rows)
