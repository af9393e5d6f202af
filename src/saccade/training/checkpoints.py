"""Checkpoints: found, tidied, read back bit by bit; and what is said where the disk is full."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

FOLDER = "checkpoints"
WEIGHTS = "weights.safetensors"
METER = "meter.json"
PREFIX = "checkpoint-"


@contextmanager
def disk_trouble(what: str, kept: str) -> Iterator[None]:
    """Turns a failed write, by whichever library, into one line that says what is left.

    Raises:
        ValueError: In place of the failure.
    """
    try:
        yield
    # torch reports a full disk as a RuntimeError of its zip writer.
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"cannot write {what}: {reason}; {kept}") from error


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


def tidy(run: Path, keep: int) -> None:
    """Deletes all but the newest checkpoints, and what an interrupted write left."""
    for old in found(run)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    for scrap in (run / FOLDER).glob(".*.part"):
        shutil.rmtree(scrap, ignore_errors=True)


def save_weights(folder: Path, weights: Mapping[str, torch.Tensor]) -> None:
    """Writes tensors under their own names."""
    save_file({k: v.detach().cpu().contiguous() for k, v in weights.items()}, folder / WEIGHTS)


def load_weights(folder: Path, into: Mapping[str, torch.Tensor]) -> None:
    """Copies saved tensors into a model's, bit by bit.

    Raises:
        ValueError: If names or shapes are not those that were saved.
    """
    saved = load_file(folder / WEIGHTS)
    odd = sorted(saved.keys() ^ into.keys())
    if odd:
        raise ValueError(f"{folder} is of another model or other trained parts: {odd[0]} is not in both")
    with torch.no_grad():
        for name, tensor in saved.items():
            if tensor.shape != into[name].shape or tensor.dtype != into[name].dtype:
                raise ValueError(f"{folder} is of another model: {name} is {tuple(tensor.shape)}")
            into[name].copy_(tensor)
