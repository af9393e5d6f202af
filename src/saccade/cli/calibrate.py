"""``saccade calibrate``: chooses the layers of a plan on a few samples."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from saccade.cli import common
from saccade.cli.drawn import of_suite
from saccade.cli.opening import opened, opens, say_next
from saccade.opening.settings import Opening
from saccade.system.embedded import GLANCE, Embedded, suite_of

if TYPE_CHECKING:
    from saccade.calibration.drawing import Draw
    from saccade.calibration.measures import Direction
    from saccade.inputs.data import Entry
    from saccade.inputs.samples import Sample
    from saccade.plans.plan import Plan

SAMPLES = 20
"""How many V-Skip's authors draw."""

BAR = 24
"""Characters of the longest bar."""


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("calibrate")(opens(calibrate))


def calibrate(
    model: common.Model = "glance",
    method: Annotated[
        str, typer.Option(help="Method whose layers are chosen (see: saccade methods).")
    ] = "vskip",
    budget: Annotated[
        int | None, common.count("How many layers the method may touch.", common.MOST_LAYERS, least=0)
    ] = None,
    flops: Annotated[
        float | None, common.fraction("Instead of a budget: the FLOPs ratio to reach, for example 0.9.")
    ] = None,
    samples: Annotated[
        int | None,
        common.count(
            f"How many samples to draw; {SAMPLES}, or all of a shorter --data, if omitted.",
            common.MOST_SAMPLES,
        ),
    ] = None,
    task: common.Tasks = None,
    data: Annotated[
        Path | None, common.questions("image(s), question, optional answer, task, subtask")
    ] = None,
    mixture: Annotated[bool, typer.Option("--mixture", help="All tasks of the suite (the default).")] = False,
    score: Annotated[
        str | None,
        typer.Option(help="vig, lc, ffn, cosine, random or withdrawal; the method's own if omitted."),
    ] = None,
    direction: Annotated[
        str, typer.Option(help="Of the KL: perturbed-full or full-perturbed.")
    ] = "perturbed-full",
    answer_tokens: Annotated[
        int,
        common.count(
            "Score this many tokens of the model's own answer, not the first alone.", common.MOST_TOKENS
        ),
    ] = 1,
    draw: Annotated[str, typer.Option(help="global, or stratified by sub-task.")] = "global",
    seed: common.Seed = 0,
    eta: Annotated[
        float, common.fraction("VTW: largest mean KL (nats) at which rows are withdrawn.", 1e6)
    ] = 3e-3,
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="Compare with brute force on the last sample.")
    ] = True,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Plan file to write.")] = Path("plan.json"),
    processes: common.Processes = 1,
    ray: common.Ray = None,
    force: common.Force = False,
    strict: common.Strict = False,
    threads: common.Threads = None,
    opening: Opening = Opening(),
    json: common.Json = None,
) -> None:
    """Choose the layers of a method by what skipping them does to the next-token distribution.

    Each layer is tried alone; its score is the mean over samples, and a budget of N takes the N lowest.
    Nothing is trained. An interrupted run goes on where it was when the command is repeated. With --method
    fitprune and --flops it is found how many rows leave in which layer, by what they attend to.

    Example: saccade calibrate glance --method vskip --budget 4 --task count --out plan.json
    """
    view = common.Output(json)
    common.check_writable(out)
    common.check_names(model, [method], [] if data else task or [], opening, [data])
    common.hold(out)
    common.reach(ray, processes)
    opening.torch_device()
    from saccade.calibration.options import CalibrationOptions

    options = CalibrationOptions(
        method=method,
        budget=budget,
        flops=flops,
        score=score,
        draw=cast("Draw", draw),
        seed=seed,
        direction=cast("Direction", direction),
        answer_tokens=answer_tokens,
        eta=eta,
        check=check,
    )
    # What does not fit, too few samples or a broken image: said before anything is loaded.
    options.check_fit()
    pool = read_pool(task or [], data, mixture, samples or SAMPLES, seed, suite_of(model))
    options = dataclasses.replace(options, num_samples=samples or min(SAMPLES, len(pool)))
    options.choose(pool)
    from saccade.calibration.api import calibrate as run
    from saccade.calibration.api import partial_path
    from saccade.helpers import helping
    from saccade.system.journal import rest

    common.use_threads(threads or common.shared_threads(processes, ray))
    loaded = opened(model, opening, whole=True)
    with (
        common.resumable("repeat the command to go on from the last finished sample"),
        common.progress() as bar,
        helping(loaded, processes, opening, ray=ray, say=view.note) as helpers,
    ):
        line = bar.add_task("calibrating", total=None if options.fits else options.num_samples)
        plan = run(
            loaded.model,
            loaded.processor,
            pool,
            options,
            force=force,
            strict=strict,
            out=out,
            progress=lambda done, total: bar.update(line, completed=done, total=total),
            helpers=helpers,
        )
    show(view, plan)
    drawn = set(plan.calibration["samples"])
    bare = sum(item.id in drawn and not item.visual for item in pool)
    if bare and plan.calibration["metric"] != "random":
        # Shares of attention are of pictures; a score of a layer is a mean over samples.
        fate = "are left out" if options.fits else "no layer loses anything on them, which lowers every mean"
        view.line(f"{bare} of these {len(drawn)} samples have no picture: {fate}")
    view.note(rest(partial_path(out)))
    view.line(f"plan: {plan.spec}, written to {out}")
    say_next(view, model, [str(out)], task, data, opening)
    view.finish({"out": str(out), "spec": plan.spec, "plan": plan.to_dict()})


def read_pool(
    tasks: Sequence[str],
    data: Path | None,
    mixture: bool,
    samples: int,
    seed: int,
    own: Embedded = GLANCE,
) -> Sequence[Sample | Entry]:
    """What the samples are drawn from: tasks of the embedded suite, all of them, or the user's file.

    Raises:
        ValueError: If more than one is asked for, or one of them cannot be read.
    """
    if sum((bool(tasks), data is not None, mixture)) > 1:
        raise ValueError("give --task, --data or --mixture, not several of them")
    if data is not None:
        from saccade.inputs.data import read_jsonl

        return read_jsonl(data)
    return of_suite(tasks, samples, "calibration", seed, own)


def show(view: common.Output, plan: Plan) -> None:
    """Prints the scores of a calibrated plan layer by layer, and what finding them took."""
    from rich.table import Table

    facts = plan.calibration
    if facts["metric"] == "attention":
        _show_fit(view, facts)
        return
    mean, sd = facts["scores"]["mean"], facts["scores"]["sd"]
    chosen = touched(plan)
    rank = {layer: place for place, layer in enumerate(facts["order"], start=1)}
    unit = "nats" if facts["direction"] else "distance"
    table = Table("layer", f"{facts['metric']} ({unit})", "sd", "", "rank", "chosen")
    top = max(mean, default=0.0)
    for layer in range(plan.model["text"]["layers"]):
        known = bool(mean)
        table.add_row(
            str(layer),
            f"{mean[layer]:.3g}" if known else "-",
            f"{sd[layer]:.2g}" if known else "-",
            "█" * round(BAR * (mean[layer] / top)) if known and top else "",
            str(rank.get(layer, "-")),
            "yes" if layer in chosen else "",
        )
    view.table(table)
    view.line(_summary(facts))
    if facts["metric"] == "withdrawal" and not rank:
        view.line(
            f"no layer has a mean KL of at most {facts['eta']:g}; a larger --eta, or a --budget, withdraws"
        )


def _show_fit(view: common.Output, facts: dict[str, Any]) -> None:
    """Prints what a fitted recipe leaves of an image in every layer."""
    from rich.table import Table

    fit = facts["fit"]
    table = Table("layer", "rows alive", "")
    for layer, share in enumerate(fit["left"]):
        table.add_row(str(layer), f"{100 * share:.1f} %", "█" * round(BAR * share))
    view.table(table)
    count, tasks = _counted(facts), ", ".join(facts["tasks"])
    view.line(
        f"{count} ({facts['draw']} draw, seed {facts['seed']}) of {tasks}; no layer loses more than "
        f"{100 * fit['alpha']:.1f} % of the attention that its rows get"
    )


def touched(plan: Plan) -> set[int]:
    """Layers in which a plan's layer methods differ from the stock model, reducers left out."""
    from saccade.core.layout import Layout
    from saccade.methods import BudgetMethod
    from saccade.plans.plan import Plan

    chosen = Plan(tuple(m for m in plan.methods if isinstance(m, BudgetMethod)))
    route = chosen.route(Layout.single(2, 4), plan.model["text"]["layers"])
    return {number for number, layer in enumerate(route.layers) if not layer.is_dense}


def _counted(facts: dict[str, Any]) -> str:
    count = len(facts["samples"])
    return f"{count} sample{'' if count == 1 else 's'}"


def _summary(facts: dict[str, Any]) -> str:
    count, tasks = _counted(facts), ", ".join(facts["tasks"])
    text = f"{count} ({facts['draw']} draw, seed {facts['seed']}) of {tasks}"
    if facts.get("answer_tokens", 1) > 1:
        text += f", the first {facts['answer_tokens']} tokens of the answer"
    cost = facts["cost"]
    if not cost:
        return text
    return (
        f"{text}; replay took {cost['flops_ratio']:.2f} of the FLOPs and "
        f"{cost['seconds_ratio']:.2f} of the time of brute force, "
        f"scores equal to {cost['largest_difference']:.0e} (last sample)"
    )
