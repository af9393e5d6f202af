"""Files of a run: the checkpoint to resume from, and the package folder to ship."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from saccade.opening.bars import quiet_bars
from saccade.system.files import disk_trouble, naming, write_folder

CHECKPOINT = "checkpoint.pt"


def save_state(run_dir: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint so that an interruption leaves the former one whole."""
    there = (run_dir / CHECKPOINT).exists()
    kept = "the former checkpoint is kept" if there else "there is no checkpoint yet"
    temporary = run_dir / f"{CHECKPOINT}.tmp"
    try:
        hint = f"{kept}; make room and go on with --resume"
        with naming(run_dir / CHECKPOINT), disk_trouble(str(run_dir / CHECKPOINT), hint, system=False):
            torch.save(state, temporary)
            os.replace(temporary, run_dir / CHECKPOINT)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def load_state(run_dir: Path) -> dict[str, Any]:
    """Read the checkpoint of a run folder."""
    return torch.load(run_dir / CHECKPOINT, map_location="cpu", weights_only=True)


def export(run_dir: Path, out: Path, dtype: torch.dtype = torch.float16) -> Path:
    """Write the averaged weights and the processor as a folder the Auto classes load, whole or not at all.

    Args:
        run_dir: Folder of the training run.
        out: Folder to write; replaced if present.
        dtype: Number format of the weights.
    """
    from saccade.glance.model import GlanceConfig, build_model
    from saccade.glance.tokenizer import build_processor
    from saccade.research.embedded.tower import make_shallow

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
    if state.get("shallow"):
        make_shallow(model)
    model = model.to(dtype)
    model.config.dtype = dtype

    kept = f"the run is kept in {run_dir}; make room and export it again"
    with disk_trouble(f"the model to {out}", kept, system=False), write_folder(out) as fresh, quiet_bars():
        model.save_pretrained(fresh)
        build_processor(sizes.image_size, sizes.patch).save_pretrained(fresh)
    return Path(out)
