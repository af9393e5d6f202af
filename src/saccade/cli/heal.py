"""``saccade heal``: a plan's accuracy brought back by an adapter, trained without labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saccade.cli import common
from saccade.cli.drawn import read_questions
from saccade.cli.opening import QUESTIONS, opened, opens, say_next
from saccade.opening.settings import Opening
from saccade.system.embedded import suite_of

if TYPE_CHECKING:
    from saccade.healing.result import Healed
    from saccade.healing.settings import HealingSettings
    from saccade.models import Loaded
    from saccade.plans.plan import Plan
    from saccade.tuning.questions import Questions

STEPS, HEAL_SAMPLES, HELD_OUT, BATCH, RANK, TOKENS, LEARN_STEPS = 300, 4800, 260, 16, 16, 24, 200
"""Defaults of ``saccade.healing.HealingSettings``, known before that is imported; a test holds them equal."""


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("heal")(opens(heal))


def heal(
    model: common.Model,
    plan: Annotated[
        str, typer.Argument(metavar="PLAN", help="The plan to heal: a plan file or a spec string.")
    ],
    out: Annotated[
        Path,
        typer.Option(metavar="FOLDER", help="Folder of the run: the healed plan, its adapter, the result."),
    ] = Path("healed"),
    data: Annotated[Path | None, common.questions("image(s), question; answers are not trained on")] = None,
    task: common.Tasks = None,
    steps: Annotated[int, common.count("Steps to take.", common.MOST_STEPS)] = STEPS,
    learn: Annotated[
        float | None,
        common.fraction(
            "Also learn which layers skip attention and FFN of visual rows, beside PLAN (or dense), "
            "until the FLOPs are this share of the dense model's.",
            metavar="SHARE",
        ),
    ] = None,
    learn_steps: Annotated[
        int, common.count("Steps of that, before --steps.", common.MOST_STEPS)
    ] = LEARN_STEPS,
    batch: Annotated[int, common.count("Questions of one forward.", common.MOST_BATCH)] = BATCH,
    accumulation: Annotated[int, common.count("Forwards of one step.", common.MOST_BATCH)] = 1,
    lr: Annotated[
        float | None,
        common.fraction(
            "Highest learning rate; 2e-4 times the root of 4096 over the decoder's width if omitted."
        ),
    ] = None,
    rank: Annotated[int, common.count("Rank of the adapter.", 16_384)] = RANK,
    samples: Annotated[
        int, common.count("Questions to train on, at most.", common.MOST_SAMPLES, least=8)
    ] = HEAL_SAMPLES,
    held_out: Annotated[
        int, common.count("Questions that judge the outcome, at most.", common.MOST_SAMPLES)
    ] = HELD_OUT,
    max_new_tokens: Annotated[
        int, common.count("Longest answer that is learnt.", common.MOST_TOKENS)
    ] = TOKENS,
    checkpointing: Annotated[
        bool,
        typer.Option(
            "--checkpointing/--no-checkpointing", help="Recompute activations instead of keeping them."
        ),
    ] = True,
    save_every: Annotated[int, common.count("Steps between checkpoints.", common.MOST_STEPS)] = 50,
    merge: Annotated[
        bool,
        typer.Option("--merge", help="Also write a model folder with the adapter in its weights."),
    ] = False,
    seed: Annotated[int, common.count("Seed of all that is drawn.", 2**32 - 1, least=0)] = 0,
    threads: common.Threads = None,
    opening: Opening = Opening(),
    json: common.Json = None,
) -> None:
    """Bring back what a plan lost: a few hundred steps of learning from the dense model, without labels.

    Under the plan the model learns to say what it says without it, through a low-rank adapter on the
    decoder's linear layers from where the plan begins. The healed plan brings the adapter with it: where
    that is given as --plan both are on, and without it the model is bit for bit what it was. An interrupted
    run goes on from its last checkpoint when the command is repeated.

    With --learn the layers are found by the same training: gates on every layer's attention and FFN are
    learnt together with the adapter under a price on FLOPs, then shut for good, and the adapter trains on.

    Example: saccade heal glance plan.json --out healed

    Example: saccade heal glance dense --learn 0.7 --out learnt
    """
    view = common.Output(json)
    common.check_names(model, [plan], [] if data else task or [], opening, [data])
    from saccade.healing.settings import HealingSettings

    settings = HealingSettings(
        steps=steps,
        batch=batch,
        accumulation=accumulation,
        lr=lr,
        rank=rank,
        num_samples=samples,
        num_held_out=held_out,
        tokens=max_new_tokens,
        learn=learn,
        learn_steps=learn_steps,
        checkpointing=checkpointing,
        save_every=save_every,
        seed=seed,
    )
    common.check_writable(out / "plan.json")
    from saccade.plans.plan import Plan

    wanted = Plan.of(plan)
    opening.torch_device()

    questions = read_questions(task or [], data, settings, suite_of(model))
    common.use_threads(threads)
    loaded = opened(model, opening)
    found = healed(view, loaded, wanted, questions, settings, out, merge)
    show(view, found)
    say_next(view, model, [str(found.files["plan"])], task, data, opening)
    if "model" in found.files:
        into, beside = str(found.files["model"]), str(found.files["model_plan"])
        others = common.given(("--task", task), ("--data", None if data is None else QUESTIONS))
        view.line(f"merged: {common.command('eval', into, '--plan', beside, *others)}")
        view.line(f"serve it: {common.command('serve', into, '--plan', f'healed={beside}')}")
    else:
        view.line(
            f"serve it: saccade.apply(model, {str(found.files['plan'])!r}); for saccade serve, repeat the "
            "command with --merge, which trains no more"
        )
    view.line(f"page: {common.command('report', str(found.files['result']), '--out', 'healed.html')}")
    view.finish(dict(found.data))


def healed(
    view: common.Output,
    loaded: Loaded,
    plan: Plan,
    questions: Questions,
    settings: HealingSettings,
    out: Path,
    merge: bool,
    again: str = "repeat the command to go on from the last checkpoint",
) -> Healed:
    """Runs a healing with its progress on a bar; ``again`` says how to go on where it is interrupted."""
    from saccade.healing.run import HealingWatch, Stopped, run

    with common.resumable(again), common.progress() as bar:
        lines: list[Any] = []

        def begin(name: str, total: int) -> None:
            lines.append(bar.add_task(name, total=total))

        watch = HealingWatch(
            lambda text: bar.console.print(text, highlight=False, soft_wrap=True),
            begin,
            lambda done: bar.update(lines[-1], advance=done),
        )
        try:
            return run(loaded, plan, questions, settings, out, merging=merge, watch=watch)
        except Stopped as stopped:
            raise common.Interrupted(f"{stopped}; {again}") from None


def show(view: common.Output, found: Healed) -> None:
    """Prints accuracy and agreement before and after, and what it took."""
    from rich.table import Table

    from saccade.report.healed import rows, took

    told = Table("", "accuracy", "against dense", "same answers as dense")
    for row in rows(found.data):
        told.add_row(*row)
    view.table(told)
    view.line(took(found.data))
    view.line(f"healed plan: {found.files['plan']}, its adapter: {found.files['adapter']}")
