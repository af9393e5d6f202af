"""The folder of a run: what it holds, and whether a run may begin or go on there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from saccade.system.files import read_json
from saccade.training import checkpoints

RUN, METRICS, MODEL, CURVE = "run.json", "metrics.jsonl", "model", "loss.png"

PLANNED = "plan file's methods"
"""What a plan file held when the run began; earlier versions did not note it."""

FREE = ("out", "save_every", "keep", "workers", "threads")
"""Settings that a resumed run may change: what is computed is the same, but for the rounding of sums."""


def check_folder(run: Path, resume: bool) -> None:
    """Refuses a folder that a new run would spoil.

    Raises:
        ValueError: If it is a file, holds a run and `resume` is false, or files of another kind of run.
    """
    if run.exists() and not run.is_dir():
        raise ValueError(f"{run} is a file; the run needs a folder")
    if (run / RUN).exists():
        _read(run)
    elif checkpoints.found(run):
        raise ValueError(
            f"{run} holds checkpoints, but {RUN}, which says of what run, is missing: "
            "choose another folder with --run"
        )
    elif (run / METRICS).exists():
        raise ValueError(
            f"{run} holds the files of another run ('saccade train glance' writes such) and no {RUN}: "
            "choose another folder with --run"
        )
    if not resume and (checkpoints.found(run) or (run / MODEL).exists()):
        raise ValueError(f"{run} holds a run already: pass --resume, or choose another folder with --run")


def checkpoint_of(
    run: Path, report: dict[str, Any], step: int | None = None, option: str = "--run"
) -> Path | None:
    """The checkpoint to go on from; None if there is none yet.

    Args:
        run: Folder of the run.
        report: What the resumed run would write down.
        step: The checkpoint's step; the last one if None.
        option: The option that names the folder.

    Raises:
        ValueError: If the folder's run had other settings or data, or there is no checkpoint of that step.
    """
    found = {checkpoints.step_of(path): path for path in checkpoints.found(run)}
    if step is not None and step not in found:
        there = f"those there are: {', '.join(map(str, found))}" if found else "there is none at all"
        raise ValueError(f"{run} has no checkpoint of step {step}; {there}")
    if not found:
        return None
    before = _read(run)
    was, now = _settled(before), _settled(report)
    if PLANNED not in was:
        now.pop(PLANNED, None)
    odd = sorted(key for key in was.keys() | now.keys() if was.get(key) != now.get(key))
    if odd:
        key = odd[0]
        raise ValueError(
            f"{run} holds a run with {key} {was.get(key)!r}, not {now.get(key)!r}: "
            f"resume with the settings it was started with, or choose another folder with {option}"
        )
    return found[max(found) if step is None else step]


def check_frozen(run: Path, digest: str, option: str = "--run") -> None:
    """Refuses to go on upon other weights than those the run began with: checkpoints hold what trains alone.

    Args:
        run: Folder of the run.
        digest: Of the weights that do not train, as they are now.
        option: The option that names the folder.

    Raises:
        ValueError: If the run began with others; earlier versions did not note them.
    """
    began = _read(run).get("frozen_weights")
    if began is not None and began != digest:
        raise ValueError(
            f"{run} holds a run that began with other weights of the model: put them back where they were, "
            f"or choose another folder with {option}"
        )


def _read(run: Path) -> dict[str, Any]:
    """What a run wrote down when it began.

    Raises:
        ValueError: If the file is damaged, or something else.
    """
    data = read_json(run / RUN)
    config = data.get("config") if isinstance(data, dict) else None
    optimisation = config.get("optimisation") if isinstance(config, dict) else None
    if not (isinstance(optimisation, dict) and {"data", "global_batch", "steps"} <= data.keys()):
        raise ValueError(
            f"{run / RUN} is damaged, or not of a training run: choose another folder with --run, "
            f"or delete {run} to start over"
        )
    return data


def _settled(report: dict[str, Any]) -> dict[str, Any]:
    """What decides the result of a run, flat. How a global batch is split up does not."""
    flat: dict[str, Any] = {"global_batch": report["global_batch"], "steps": report["steps"]}
    flat |= {key: report[key] for key in (PLANNED,) if key in report}

    def walk(data: Any, path: str) -> None:
        if isinstance(data, dict):
            for key, value in data.items():
                walk(value, f"{path}.{key}" if path else str(key))
        elif isinstance(data, list | tuple):
            for number, value in enumerate(data):
                walk(value, f"{path}.{number}")
        else:
            flat[path] = data

    config = {key: value for key, value in report["config"].items() if key not in FREE}
    optimisation = dict(config["optimisation"])
    for key in ("batch", "accumulation"):
        optimisation.pop(key, None)
    walk(config | {"optimisation": optimisation}, "")
    walk(report["data"], "data hash")
    return flat
