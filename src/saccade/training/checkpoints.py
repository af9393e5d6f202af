"""Checkpoints: found, tidied, read back bit by bit."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerState

FOLDER = "checkpoints"
WEIGHTS = "weights.safetensors"
OPTIMIZER, SCHEDULER, STATE = "optimizer.pt", "scheduler.pt", "trainer_state.json"
METER = "meter.json"
PREFIX = "checkpoint-"
BEFORE = "before"
"""Where a checkpoint waits that another one of its step takes the place of."""


@contextmanager
def damage(checkpoint: Path) -> Iterator[None]:
    """Turns a failed read, by whichever library, into one line that says what to do.

    Raises:
        ValueError: In place of the failure.
    """
    try:
        yield
    except Exception as error:  # a torn file makes torch, pickle and numpy raise whatever comes up first
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(
            f"the checkpoint {checkpoint} is damaged ({reason}); delete it and --resume from the one before"
        ) from error


def check(checkpoint: Path, sharded: bool) -> None:
    """Refuses a checkpoint that lacks a file: the library would go on from a fresh state without a word.

    Args:
        checkpoint: Its folder.
        sharded: Whether weights and the optimizer's state are in shards, which their library looks after.

    Raises:
        ValueError: Naming a file that is missing.
    """
    there = {path.name for path in checkpoint.iterdir() if path.is_file()}
    ranks = [int(name.partition("-")[0]) for name in there if re.fullmatch(rf"\d+-{METER}", name)]
    drawn = [int(n) for name in there for n in re.findall(r"^rng_state_(\d+)\.pth$", name)]
    processes = max([1, *(rank + 1 for rank in ranks + drawn)])
    needed = [SCHEDULER, STATE, *(() if sharded else (WEIGHTS, OPTIMIZER))]
    needed += [f"{rank}-{METER}" for rank in range(processes)]
    needed += [f"rng_state_{rank}.pth" for rank in range(processes)] if processes > 1 else ["rng_state.pth"]
    with damage(checkpoint):
        for name in needed:
            if name not in there:
                raise ValueError(f"{name} is missing")
        TrainerState.load_from_json(str(checkpoint / STATE))


def not_finite(named: Iterable[tuple[str, torch.Tensor]]) -> str:
    """Name of the first tensor that holds something that is no number; empty if there is none."""
    for name, tensor in named:
        here: Any = tensor.detach()
        # Of a tensor in shards each process looks at its own.
        here = here.to_local() if hasattr(here, "to_local") else here
        if not bool(torch.isfinite(here).all()):
            return name
    return ""


def found(run: Path) -> list[Path]:
    """Checkpoints of a run, oldest first."""
    folder = run / FOLDER
    if not folder.is_dir():
        return []
    named = [p for p in folder.iterdir() if p.is_dir() and re.fullmatch(PREFIX + r"\d+", p.name)]
    return sorted(named, key=step_of)


def step_of(checkpoint: Path) -> int:
    """Step after which a checkpoint was written."""
    return int(checkpoint.name.removeprefix(PREFIX))


def recover(run: Path) -> None:
    """Puts a checkpoint into its place that a kill left beside it, whole; nobody else may be at the run."""
    for scrap in (run / FOLDER).glob(".*.part"):
        # It was about to take the place of one of the same step, which had been moved out of the way.
        if (scrap / BEFORE).exists():
            for whole in scrap.glob(f"{PREFIX}*"):
                if not (run / FOLDER / whole.name).exists():
                    os.replace(whole, run / FOLDER / whole.name)
        shutil.rmtree(scrap, ignore_errors=True)


def tidy(run: Path, keep: int) -> None:
    """Deletes all but the newest checkpoints, and what an interrupted write left."""
    for old in found(run)[:-keep]:
        with suppress(OSError):
            _delete(old)
    for scrap in (run / FOLDER).glob(".*.part"):
        shutil.rmtree(scrap, ignore_errors=True)


def forget_after(run: Path, step: int) -> None:
    """Deletes checkpoints that a run which goes on from an earlier one will write anew.

    The newest go first: whenever it ends, the last that is left is whole, and one that a run may go on from.
    """
    for path in reversed(found(run)):
        if step_of(path) > step:
            _delete(path)


def _delete(checkpoint: Path) -> None:
    """Deletes a checkpoint; an end in the middle of it leaves what nobody takes for one."""
    scrap = checkpoint.with_name(f".{checkpoint.name}.part")
    os.replace(checkpoint, scrap)
    shutil.rmtree(scrap, ignore_errors=True)


def save_weights(folder: Path, weights: Mapping[str, torch.Tensor]) -> None:
    """Writes tensors under their own names."""
    save_file({k: v.detach().cpu().contiguous() for k, v in weights.items()}, folder / WEIGHTS)


def load_weights(folder: Path, into: Mapping[str, torch.Tensor]) -> None:
    """Copies saved tensors into a model's, bit by bit.

    Raises:
        ValueError: If names or shapes are not those that were saved, or the file is damaged.
    """
    with damage(folder):
        saved = load_file(folder / WEIGHTS)
    odd = sorted(saved.keys() ^ into.keys())
    if odd:
        raise ValueError(f"{folder} is of another model or other trained parts: {odd[0]} is not in both")
    with torch.no_grad():
        for name, tensor in saved.items():
            if tensor.shape != into[name].shape or tensor.dtype != into[name].dtype:
                raise ValueError(f"{folder} is of another model: {name} is {tuple(tensor.shape)}")
            into[name].copy_(tensor)
