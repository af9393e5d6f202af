"""``saccade tune``: the plan that fits a model, some samples and a budget."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saccade.cli import common
from saccade.cli.drawn import read_questions
from saccade.cli.opening import opened, opens, say_next, words
from saccade.opening.settings import Opening
from saccade.system.embedded import suite_of

if TYPE_CHECKING:
    from saccade.models import Loaded
    from saccade.tuning.prepare import Watch
    from saccade.tuning.questions import Questions
    from saccade.tuning.result import Tuned
    from saccade.tuning.settings import Settings

TUNE_SAMPLES, HELD_OUT, PASSES = 104, 260, 24_000
"""Defaults of ``saccade.tuning.Settings``, known before that is imported; a test holds them equal."""


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("tune")(opens(tune))


def tune(
    model: common.Model = "glance",
    flops: Annotated[
        float | None, common.fraction("Share of the dense FLOPs that the plan may cost.")
    ] = None,
    time: Annotated[
        float | None,
        common.fraction("Share of the dense time to the first token, measured here or predicted by --on."),
    ] = None,
    kv: Annotated[float | None, common.fraction("Share of the dense KV cache.")] = None,
    max_loss: Annotated[
        float | None,
        common.fraction(
            "Points of accuracy that it may lose, proven on held-out samples; alone: the cheapest such.", 100
        ),
    ] = None,
    on: Annotated[
        str | None, typer.Option(metavar="DEVICE", help="Predict time on h100, a100, l4 or rtx3090 instead.")
    ] = None,
    data: Annotated[Path | None, common.questions("image(s), question, optional answer, task")] = None,
    task: common.Tasks = None,
    samples: Annotated[
        int, common.count("Samples that the search sees, at most.", common.MOST_SAMPLES, least=8)
    ] = TUNE_SAMPLES,
    held_out: Annotated[
        int, common.count("Samples that judge its plans, at most.", common.MOST_SAMPLES)
    ] = HELD_OUT,
    passes: Annotated[
        int, common.count("Prompts that the search may run under plans.", 1_000_000_000)
    ] = PASSES,
    allow: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Of attention, ffn, freeze, drop, withdraw, reduce, merge, resize; all if omitted.",
        ),
    ] = None,
    engine: Annotated[
        str, typer.Option("--for", metavar="ENGINE", help="What will serve the plan: transformers or vllm.")
    ] = "transformers",
    mean: Annotated[
        bool,
        typer.Option("--mean", help="Hold --max-loss for the mean over tasks, not for every task."),
    ] = False,
    unsure: Annotated[
        float | None,
        common.fraction(
            "Share of the prompts that the dense model may answer instead, where the plan is unsure."
        ),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Measure what undoing every choice would change, and say it.")
    ] = False,
    heal: Annotated[
        bool,
        typer.Option(
            "--heal",
            help="Then bring back what the plan lost, as saccade heal does, in a folder beside it.",
        ),
    ] = False,
    batch: Annotated[int, common.count("Questions per batch.", common.MOST_BATCH)] = 26,
    max_new_tokens: Annotated[
        int, common.count("Longest answer that is looked at.", common.MOST_TOKENS)
    ] = 24,
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE", help="Plan file to write; beside it the front, the result and a picture."
        ),
    ] = Path("plan.json"),
    processes: common.Processes = 1,
    ray: common.Ray = None,
    seed: common.Seed = 0,
    threads: common.Threads = None,
    opening: Opening = Opening(),
    json: common.Json = None,
) -> None:
    """Find the plan that loses least at a cost, or costs least within a loss, on your samples.

    Skips of layers, reducers, drops inside the decoder and resolution are combined; plans are compared at
    equal cost by how far they move the dense model's whole answers, and judged on samples that the search has
    not seen. Samples need no answers: without them the dense model's own are the reference. Nothing is
    trained. An interrupted run goes on where it was when the command is repeated.

    Example: saccade tune glance --flops 0.5 --out plan.json
    """
    common.check_names(model, (), [] if data else task or [], opening, [data])
    from saccade.tuning.operations import OPERATIONS, check_allowed

    view = common.Output(json)
    common.check_writable(out)
    allowed = (
        OPERATIONS if allow is None else tuple(part.strip() for part in allow.split(",") if part.strip())
    )
    check_allowed(allowed, engine)
    from saccade.tuning.settings import Settings

    settings = Settings(
        flops=flops,
        time=time,
        kv=kv,
        max_loss=max_loss,
        on=on,
        allow=allowed,
        engine=engine,
        num_samples=samples,
        num_held_out=held_out,
        passes=passes,
        each_task=not mean,
        unsure=unsure,
        batch=batch,
        tokens=max_new_tokens,
        seed=seed,
    )
    settings.check_processes(processes, ray)
    common.hold(out)
    common.reach(ray, processes)
    opening.torch_device()
    from saccade.helpers import helping
    from saccade.system.journal import rest
    from saccade.tuning.front import write
    from saccade.tuning.run import run

    questions = read_questions(task or [], data, settings, suite_of(model))
    common.use_threads(threads or common.shared_threads(processes, ray))
    loaded = opened(model, opening, whole=True)
    tell_plan(view, settings, questions)
    journal = common.keep(common.partial_of(out))
    with (
        common.resumable("repeat the command to go on from what was measured"),
        common.progress() as bar,
    ):
        shown = watched(bar)
        with helping(loaded, processes, opening, ray=ray, say=shown.say) as helpers:
            found = run(loaded, questions, settings, journal, shown, explain=explain, helpers=helpers)
        found = write(found, out)
    view.note(journal.finish())
    left = common.partial_of(out)
    view.note("" if left is None else rest(left))
    show(view, found)
    plans = [str(out)]
    if heal and found.plan is not None:
        common.use_threads(threads)  # alone again
        plans.append(heal_it(view, loaded, out, task or [], data, settings, opening))
    if found.plan is not None:
        say_next(view, model, plans, task, data, opening)
        serve = common.command("serve", model, "--plan", f"tuned={out}", *words(opening))
        view.line(f"serve it: {serve}, or saccade.apply(model, {str(out)!r})")
    view.line(f"page: {common.command('report', str(found.files['result']), '--out', 'tune.html')}")
    view.finish({key: value for key, value in found.data.items() if key != "facts"})
    if found.refused:
        former = f"; {out} is what a former run wrote" if out.exists() else ""
        raise ValueError(f"{found.refused} (the front is in {found.files['front']}{former})")


def heal_it(
    view: common.Output,
    loaded: Loaded,
    out: Path,
    tasks: list[str],
    data: Path | None,
    settings: Settings,
    opening: Opening,
) -> str:
    """Heals the plan that was written, as ``saccade heal`` does; gives the file of the healed one."""
    from saccade.cli import heal as healing
    from saccade.healing.settings import HealingSettings
    from saccade.plans.plan import Plan

    wanted = HealingSettings(tokens=settings.tokens, seed=settings.seed)
    folder = out.with_suffix("").with_name(out.with_suffix("").name + ".healed")
    own = common.given(("--task", tasks or None), ("--data", data), ("--max-new-tokens", settings.tokens))
    seed = ["--seed", str(settings.seed), *words(opening)]
    again = common.command("heal", loaded.name, str(out), "--out", str(folder), *own, *seed)
    questions = read_questions(tasks, data, wanted, suite_of(loaded.name))
    result = healing.healed(
        view, loaded, Plan.load(out), questions, wanted, folder, False, f"continue: {again}"
    )
    healing.show(view, result)
    return str(result.files["plan"])


def watched(bar: Any) -> Watch:
    """What a tuning is told to call: its progress on a bar, the task at hand alone."""
    from saccade.tuning.prepare import Watch

    tasks: list[Any] = []

    def begin(name: str, total: int) -> None:
        if tasks:
            bar.update(tasks[-1], visible=False)
        tasks.append(bar.add_task(name, total=total))

    def step(prompts: int) -> None:
        if tasks:
            bar.update(tasks[-1], advance=prompts)

    return Watch(lambda text: bar.console.print(text, highlight=False, soft_wrap=True), begin, step)


def tell_plan(view: common.Output, settings: Settings, questions: Questions) -> None:
    """Says before the search what it will take."""
    seen, held = len(questions.search), len(questions.held_out)
    view.note(
        f"a search of at most {settings.passes} forward passes under plans (--passes bounds it), on {seen} "
        "samples; beside it every skip and every method alone, on a part of them; "
        f"{held} others judge what it finds, with up to 7 answers each"
    )


def show(view: common.Output, found: Tuned) -> None:
    """Prints the front on the held-out samples, what was chosen, and what it is worth."""
    from rich.table import Table
    from rich.text import Text

    from saccade.plans.bill import tower_told
    from saccade.report.text import guard_told, lost, percent

    search = found.data["tune"]["search"]
    table = Table("plan", title="the front, on samples that the search has not seen", title_justify="left")
    heads = ("same answers (search)", "accuracy", "against dense", "at worst (95 %)", "whole FLOPs")
    for head in (search["cost"], *heads):
        table.add_column(head, justify="right")
    table.add_row(
        "dense", "100.0 %", "", percent(found.found.dense.mean.accuracy.value), "", "", "100.0 %",
        end_section=True,
    )  # fmt: skip
    for one in found.candidates:
        mean = found.found.plans[one.plan.spec].mean
        table.add_row(
            Text(one.plan.spec, style="bold" if one is found.chosen else ""),
            percent(one.ratio),
            percent(one.tried.loss.agreement),
            percent(mean.accuracy.value),
            lost(one.verdict.loss),
            lost(one.verdict.bound),
            percent(found.found.plans[one.plan.spec].cost.get("whole_ratio")),
        )
    view.table(table)
    view.line(
        f"against dense in points, paired by question; at worst: one-sided 95 %, corrected for "
        f"{len(found.candidates)} plans; {search['plans']} plans were measured with {search['passes']} passes"
    )
    if found.explained and found.chosen is not None:
        _explain(view, found)
    if found.unsure is not None:
        view.line(guard_told(vars(found.unsure)))
    if found.chosen is not None:
        cost = found.found.plans[found.chosen.plan.spec].cost
        if told := tower_told(cost.get("tower_share"), cost.get("whole_ratio")):
            view.line(f"of the plan {told}")
        if found.settings.max_loss is None:
            why = (
                "that is least often likely to answer the search's questions otherwise than the dense model; "
                "the held-out ones judge it, and did not choose it"
            )
        else:
            why = f"that is the cheapest of those proven within {found.settings.max_loss:g} points"
        view.line(f"chosen: of the plans that fit, the one {why}")
        budget = found.settings.budget
        if budget is not None and round(found.chosen.ratio, 3) > budget:
            view.line(
                f"on the samples of the search it costs {percent(found.chosen.tried.ratio)}, within the "
                "budget; prompts of the held-out ones have other sizes"
            )
        view.line(f"plan: {found.chosen.plan.spec}, written to {found.files['plan']}")
        worst = 100 * found.chosen.verdict.bound
        if found.settings.max_loss is None:
            view.line(f"not proven to lose less than {worst:.2f} points")
        else:
            view.line(f"proven within {found.settings.max_loss:g} points")
    view.line(
        f"front: {found.files['front']}, picture: {found.files['picture']}, result: {found.files['result']}"
    )


def _explain(view: common.Output, found: Tuned) -> None:
    from rich.table import Table

    from saccade.report.text import points

    assert found.chosen is not None
    here = found.chosen.tried
    table = Table(
        "where", "chosen", "instead", "cost, points", "KL (nats)", title="what undoing a choice changes"
    )
    for one in found.explained:
        table.add_row(
            one.what, one.chosen, one.other, points(one.ratio - here.ratio),
            f"{one.loss - here.loss.mean:+.3g}",
        )  # fmt: skip
    view.table(table)
