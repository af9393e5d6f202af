"""``saccade train CONFIG.yaml``: training a VLM."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from saccade.cli import common
from saccade.cli.apart import check_apart
from saccade.cli.opening import QUESTIONS

if TYPE_CHECKING:
    from saccade.training import TrainingConfig, TrainingOutcome

DEFAULT = "run"


class _OrConfig(TyperGroup):
    """A group whose first word may be a file instead of a command."""

    default = DEFAULT

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = [self.default, *args]
        return super().parse_args(ctx, args)


def register(app: typer.Typer) -> None:
    """Adds the command group."""
    group = typer.Typer(
        cls=_OrConfig,
        help="Train a model as a YAML file says, or the embedded one from nothing.",
        epilog="Options of CONFIG.yaml: saccade train run --help",
        subcommand_metavar="CONFIG.yaml | COMMAND [ARGS]...",
        rich_markup_mode=None,
    )
    group.callback(invoke_without_command=True)(_what)
    group.command(DEFAULT)(run)
    app.add_typer(group, name="train")


def _what(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def run(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="What to train, on what, and how.")],
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint in the run's folder.")
    ] = False,
    from_step: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            max=common.MOST_STEPS,
            help="Go on from the checkpoint of this step; metrics and checkpoints after it are dropped.",
        ),
    ] = None,
    run: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder of the run, instead of the file's.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Replace a setting, such as optimisation.steps=20."),
    ] = None,
    threads: Annotated[
        int | None, common.count("CPU threads, instead of the file's.", common.MOST_THREADS)
    ] = None,
    json: common.Json = None,
) -> None:
    """Train a model on conversations, as a YAML file says; this is what `saccade train CONFIG.yaml` does.

    Several processes: torchrun --nproc_per_node 2 -m saccade train CONFIG.yaml

    Example: saccade train configs/smoke.yaml --run runs/smoke
    """
    out = common.Output(json)
    from saccade.training.config import read_config

    if threads is not None:
        settings = [*(settings or ()), f"threads={threads}"]
    chosen = read_config(config, settings or ())
    if run is not None:
        chosen = dataclasses.replace(chosen, out=str(run))
    common.check_writable(Path(chosen.out) / "run.json")
    _check_apart(chosen, json)
    again = _again(config, run, settings)
    from saccade.training.run import train

    with common.resumable(f"continue with: {again}"):
        outcome = train(chosen, resume, from_step)
    _part()
    if not outcome.main:
        return
    if not outcome.finished:
        raise common.Interrupted(f"step {outcome.steps} is saved; continue with: {again}")
    _tell(out, chosen, outcome)
    out.finish(outcome.report | {"run": str(outcome.folder), "model": str(outcome.model)})


def _check_apart(config: TrainingConfig, json: str | None) -> None:
    """Refuses to write over what the configuration names, which no option of the command does.

    Raises:
        ValueError: Naming the file, or the model's folder where the run's own would take its place.
    """
    from saccade.training.folder import MODEL

    files = [source.file for source in config.data if source.kind != "glance"]
    check_apart({"json": json, "data": files, "model": config.model.name, "plan": config.plan})
    made = Path(config.out) / MODEL
    if made.is_dir() and made.resolve() == Path(config.model.name).resolve():
        raise ValueError(f"the run would write over the model it trains, {made}: choose another --run folder")


def _part() -> None:
    """Takes leave of the other processes: one that ends with the connections open may be aborted by them."""
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def _again(config: Path, run: Path | None, settings: list[str] | None) -> str:
    words = ["saccade", "train", str(config), "--resume", *(["--run", str(run)] if run else [])]
    return shlex.join([*words, *(w for setting in settings or () for w in ("--set", setting))])


def _tell(out: common.Output, config: TrainingConfig, outcome: TrainingOutcome) -> None:
    final, refused = outcome.report["final"], outcome.report["refused"]
    loss = final["loss"] if final is not None else None
    last = "" if loss is None else f"; last loss {loss:.4f}"
    out.line(f"trained {config.model.name} for {outcome.steps} steps{last}")
    left_out = refused["before"] + refused["on_the_way"]
    if left_out:
        records = "record" if left_out == 1 else "records"
        out.line(f"left out {left_out} bad {records}, for example: {refused['examples'][0]}")
    out.line(f"wrote {outcome.model}, {outcome.folder / 'metrics.jsonl'} and {outcome.folder / 'loss.png'}")
    own = any(source.kind != "glance" for source in config.data)
    asked = common.given(("--plan", config.plan), ("--data", QUESTIONS if own else None))
    out.line(f"next: {common.command('eval', str(outcome.model), *asked)}")
    if own:
        out.line(f"{QUESTIONS}: held-out questions of your own, on each line image, question and answer")
