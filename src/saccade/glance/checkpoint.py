"""Files of a run: the checkpoint to resume from, and the package folder to ship."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

CHECKPOINT = "checkpoint.pt"


def save_state(run_dir: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint so that an interruption leaves the former one whole."""
    temporary = run_dir / f"{CHECKPOINT}.tmp"
    torch.save(state, temporary)
    os.replace(temporary, run_dir / CHECKPOINT)


def load_state(run_dir: Path) -> dict[str, Any]:
    """Read the checkpoint of a run folder."""
    return torch.load(run_dir / CHECKPOINT, map_location="cpu", weights_only=True)


def export(run_dir: Path, out: Path, dtype: torch.dtype = torch.float16) -> Path:
    """Write the averaged weights and the processor as a folder the Auto classes load.

    The folder is completed beside `out` and swapped in at the end: an interrupted export leaves the old one.

    Args:
        run_dir: Folder of the training run.
        out: Folder to write; replaced if present.
        dtype: Number format of the weights.
    """
    from saccade.glance.model import GlanceConfig, build_model
    from saccade.glance.tokenizer import build_processor

    state = load_state(Path(run_dir))
    sizes = GlanceConfig(**state["sizes"])
    model = build_model(sizes, seed=0)
    weights = {
        name.removeprefix("model."): tensor
        for name, tensor in state["average"].items()
        if name.startswith("model.")
    }
    missing, unexpected = model.load_state_dict(weights, strict=False)
    buffers = {name for name, _ in model.named_buffers()}
    if unexpected or set(missing) - buffers:
        raise ValueError(f"checkpoint does not fit the model: missing {missing}, unexpected {unexpected}")
    model = model.to(dtype)
    model.config.dtype = dtype

    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        model.save_pretrained(fresh)
        build_processor(sizes.image_size, sizes.patch).save_pretrained(fresh)
        for file in fresh.iterdir():
            file.chmod(0o644)
        fresh.chmod(0o755)
        _swap(fresh, out)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return out


def _swap(fresh: Path, out: Path) -> None:
    """Put `fresh` in the place of `out`; the old folder is set aside, and put back on failure."""
    if not out.exists():
        os.replace(fresh, out)
        return
    old = fresh.with_name(fresh.name + "-old")
    os.replace(out, old)
    try:
        os.replace(fresh, out)
    except BaseException:
        os.replace(old, out)
        raise
    shutil.rmtree(old)
