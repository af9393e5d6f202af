"""Checkpoints and model folders: written whole or not at all, read back bit by bit."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

FOLDER = "checkpoints"
WEIGHTS = "weights.safetensors"
METER = "meter.json"
PREFIX = "checkpoint-"


@contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """A folder to fill that takes the place of `folder` when the block ends well, and vanishes otherwise."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = folder.with_name(f".{folder.name}.{uuid4().hex}.part")
    old = fresh.with_suffix(".old")
    fresh.mkdir()
    try:
        yield fresh
        for file in fresh.rglob("*"):
            file.chmod(0o755 if file.is_dir() else 0o644)  # some writers leave private files
        if folder.exists():
            os.replace(folder, old)
        try:
            os.replace(fresh, folder)
        except BaseException:
            if old.exists():
                os.replace(old, folder)
            raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


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
