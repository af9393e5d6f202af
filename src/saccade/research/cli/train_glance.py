"""``saccade train glance`` and ``saccade train gaze``: the embedded models."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from saccade.cli import common
from saccade.opening.settings import check_device_name


def register(app: typer.Typer) -> None:
    """Adds the commands to those of ``train``."""
    group = next(one.typer_instance for one in app.registered_groups if one.name == "train")
    assert group is not None
    group.command("glance")(glance)
    group.command("gaze")(gaze)


Minutes = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1_000_000,
        callback=common.finite,
        help="Time to spend in training steps; the shipped recipe's if omitted.",
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(
        min=1, max=common.MOST_STEPS, help="Lay the schedule over steps instead of time; exactly repeatable."
    ),
]
Run = Annotated[Path, typer.Option(help="Folder of the run: checkpoint, metrics.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the run in --run.")]
Export = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="When done, write a model folder that the Auto classes load."),
]
ExportOnly = Annotated[bool, typer.Option("--export-only", help="Do not train; export what --run holds.")]
Device = Annotated[
    str | None, typer.Option(metavar="NAME", help="Where to compute, for example cuda; the CPU if omitted.")
]
Batch = Annotated[
    int | None,
    typer.Option(min=2, max=4096, help="Pictures a step on questions at full size; the recipe's if omitted."),
]
Start = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Begin the last stage with the weights of this model folder."),
]
Workers = Annotated[
    int | None, typer.Option(min=0, max=256, help="Processes that draw pictures; the recipe's if omitted.")
]
Threads = Annotated[
    int | None, typer.Option(min=1, max=common.MOST_THREADS, help="CPU threads; the recipe's if omitted.")
]


def glance(
    minutes: Minutes = None,
    steps: Steps = None,
    seed: common.Seed = 0,
    run: Run = Path("runs/glance"),
    resume: Resume = False,
    export: Export = None,
    export_only: ExportOnly = False,
    threads: Threads = None,
    workers: Workers = None,
    device: Device = None,
    json: common.Json = None,
) -> None:
    """Train Glance on questions drawn on the fly. Checkpoints are written as it goes; --resume continues one.

    Example: saccade train glance --minutes 100 --run runs/glance --export glance-mine
    """
    given = {"minutes": minutes, "steps": steps, "threads": threads, "workers": workers, "device": device}
    _embedded("glance", given, seed, run, resume, export, export_only, json)


def gaze(
    minutes: Minutes = None,
    steps: Steps = None,
    seed: common.Seed = 0,
    run: Run = Path("runs/gaze"),
    resume: Resume = False,
    export: Export = None,
    export_only: ExportOnly = False,
    threads: Threads = None,
    workers: Workers = None,
    device: Device = None,
    batch: Batch = None,
    start: Start = None,
    json: common.Json = None,
) -> None:
    """Train Gaze from Glance's weights. A run is of use at any stop: --resume --steps N ends it at step N.

    Example: saccade train gaze --run runs/gaze --export gaze-mine
    """
    given = {
        "minutes": minutes,
        "steps": steps,
        "threads": threads,
        "workers": workers,
        "device": device,
        "batch": batch,
        "start": start,
    }
    _embedded("gaze", given, seed, run, resume, export, export_only, json)


def _embedded(
    name: str,
    given: dict[str, Any],
    seed: int,
    run: Path,
    resume: bool,
    export: Path | None,
    export_only: bool,
    json: common.Json,
) -> None:
    out = common.Output(json)
    given = {key: value for key, value in given.items() if value is not None}
    if "minutes" in given and "steps" in given:
        raise ValueError("give --minutes or --steps, not both")
    if given.get("minutes") == 0:
        raise ValueError("--minutes is a time above 0")
    check_device_name(given.get("device"))
    if export_only and export is None:
        raise ValueError("--export-only needs --export FOLDER")
    if export is not None:
        if export.exists() and not (
            export.is_dir() and ((export / "config.json").exists() or not any(export.iterdir()))
        ):
            raise ValueError(
                f"{export} exists and is not a model folder; it would be replaced, so choose another"
            )
        common.check_writable(export / "config.json")
    from saccade.research.embedded.checkpoint import CHECKPOINT
    from saccade.research.embedded.checkpoint import export as write_folder

    if not export_only:
        _train(name, given, seed, run, resume)
    elif not (run / CHECKPOINT).exists():
        raise ValueError(f"{run} holds no run to export")
    done: dict[str, object] = {"run": str(run), "seed": seed, "export": None}
    if export is not None:
        done["export"] = str(write_folder(run, export))
        out.line(f"wrote {export}: use it as MODEL, for example: {common.command('eval', str(export))}")
    else:
        export_it = common.command("train", name, "--run", str(run), "--export-only", "--export", "FOLDER")
        out.line(f"trained in {run}; to make a model folder: {export_it}")
    from saccade.measure import record

    out.finish(done | {"provenance": record(seed=seed)})


def _train(name: str, given: dict[str, Any], seed: int, run: Path, resume: bool) -> None:
    from dataclasses import replace

    from saccade.opening import Opening
    from saccade.research.embedded.checkpoint import CHECKPOINT
    from saccade.research.embedded.recipe import RECIPES
    from saccade.research.embedded.train import schedule_of, train

    # Both kinds of run write metrics.jsonl.
    if (run / "run.json").exists():
        raise ValueError(
            f"{run} holds a run of 'saccade train CONFIG.yaml': choose another folder with --run"
        )
    if resume:
        given |= schedule_of(run, given)
    if "device" in given:
        given["device"] = str(Opening(device=given["device"]).torch_device())
    config = RECIPES[name].config
    if "batch" in given:
        config = config.with_batch(given["batch"])
    if "start" in given:
        # A run that goes on has its weights in its checkpoint.
        if not resume and not (given["start"] / "config.json").exists():
            raise ValueError(f"{given['start']} is no model folder")
        config = config.going_on(str(given["start"]))
    plain = {key: value for key, value in given.items() if key not in ("batch", "start")}
    config = replace(config, seed=seed, **plain)
    told = given | ({"seed": seed} if seed else {})
    options = "".join(
        f" --{key} {value:g}" if isinstance(value, float) else f" --{key} {shlex.quote(str(value))}"
        for key, value in told.items()
    )
    where = shlex.quote(str(run))

    def again() -> str:
        if (run / CHECKPOINT).exists():
            return f"continue with: saccade train {name} --resume --run {where}{options}"
        return f"there was no checkpoint yet; start over with: saccade train {name} --run {where}{options}"

    with common.resumable(again):
        try:
            train(config, run, resume, RECIPES[name].sizes)
        except SystemExit:  # the trainer saves first when it is told to stop
            raise common.Interrupted(again()) from None
