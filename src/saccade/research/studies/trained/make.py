"""Trains what the ablation needs and does not have yet; several processes may share a run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from saccade import models, skip_vision
from saccade.glance.scenes import KINDS, make_scene, scene_seed
from saccade.research.studies.trained.ablation import Ablation, AblationRow
from saccade.skip_vision.align import align
from saccade.system.files import disk_trouble, locked, read_json, write_json

ALIGN_BATCH = 32
Note = Callable[[str], None]


def place(run: Path, row: AblationRow, seed: int) -> Path:
    """Folder of the training run that a row's weights come from."""
    return run / "rows" / f"{(row.weights or row.name).lower().replace(',', '').replace(' ', '-')}-{seed}"


def start_of(run: Path, ablation: Ablation) -> Path:
    """Folder of the model that all rows start from: one with a resampler is trained first, in the run."""
    return run / "base" / "model" if ablation.resampled else ablation.model.checkpoint()


def make(run: Path, ablation: Ablation, note: Note) -> bool:
    """Trains what is missing and nobody else is at.

    Args:
        run: Folder of the ablation.
        ablation: What is trained.
        note: Called with a line of text when something begins.

    Returns:
        Whether everything is there now; False where another process is still at a part.

    Raises:
        ValueError: If the folder holds an ablation of another recipe.
    """
    from saccade.training import TrainingConfig, train

    remember(run, ablation)
    if ablation.resampled:
        base = run / "base"
        with claimed(base) as mine:
            if mine:
                start = aligned(run, ablation, note)
                note("training the dense base")
                _finish(
                    train(TrainingConfig.from_data(ablation.training(str(start), str(base))), resume=True)
                )
    begun = start_of(run, ablation)
    if not begun.exists():
        return False
    wanted = [
        (row, seed)
        for seed in range(ablation.recipe.seeds)
        for row in ablation.rows
        if row.weights is None and seed in ablation.seeds(row)
    ]
    for row, seed in wanted:
        out = place(run, row, seed)
        with claimed(out) as mine:
            if mine:
                note(f"training {row.name}, seed {seed}")
                name = str(begun) if ablation.resampled else ablation.model.name
                data = ablation.training(name, str(out), row, seed + 1)
                _finish(train(TrainingConfig.from_data(data), resume=True))
    return all((place(run, row, seed) / "model").exists() for row, seed in wanted)


def _finish(outcome: Any) -> None:
    """A run that was told to stop has saved its last step: stop too, and go on from there another time."""
    if not outcome.finished:
        raise KeyboardInterrupt


def remember(run: Path, ablation: Ablation) -> None:
    """Notes what is trained in a run's folder: from which weights, the base, and every row.

    Raises:
        ValueError: If the folder was begun from other weights, or a row is trained otherwise there.
    """
    path = run / "recipe.json"
    trained = {row.name: ablation.training("", "", row) for row in ablation.rows if row.weights is None}
    told: dict[str, Any] = {
        "start": _digest(ablation.model.checkpoint() / "model.safetensors"),
        "base": [ablation.recipe.align_steps, ablation.training("", "")] if ablation.resampled else None,
        "rows": trained,
    }
    told = json.loads(json.dumps(told))
    before = read_json(path) if path.exists() else told
    known = before.get("rows", {})
    odd = [name for name, config in known.items() if told["rows"].get(name, config) != config]
    if odd or any(before.get(key) != told[key] for key in ("start", "base")):
        what = f"trains {odd[0]!r} otherwise" if odd else "began from other weights, or with another recipe"
        raise ValueError(f"{run} {what} ({path}); give another folder")
    told["rows"] = known | told["rows"]
    if told != before or not path.exists():
        write_json(path, told)


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def aligned(run: Path, ablation: Ablation, note: Note) -> Path:
    """The dense model whose resampler says what the embedded model's projector says."""
    folder = run / "aligned"
    if not folder.exists():
        name, steps = ablation.model.name, ablation.recipe.align_steps
        note(f"aligning the resampler with {ablation.model.title}'s projector")
        loaded = skip_vision.wrap(models.load(name, device="cpu"), ablation.config(ablation.rows[0]))
        told = max(steps // 8, 1)

        def say(step: int, left: float) -> None:
            if (step + 1) % told == 0:
                note(f"step {step + 1} of {steps}: {left:.3f} of the variance left")

        left = align(loaded, models.load(name, device="cpu"), scenes, steps, on_step=say)
        # The folder says that it is done, so it comes last.
        write_json(run / "aligned.json", {"steps": steps, "variance_left": left})
        with disk_trouble(f"the aligned model to {folder}", "make room and repeat the command"):
            skip_vision.save(loaded, folder)
    return folder


def scenes(step: int) -> list[Any]:
    """Pictures of one step of the alignment."""
    rng = np.random.default_rng((7, step))
    kinds = rng.choice(list(KINDS), ALIGN_BATCH)
    seeds = rng.integers(1 << 47, size=ALIGN_BATCH)
    return [
        make_scene(str(kind), scene_seed("train", int(seed))).image
        for kind, seed in zip(kinds, seeds, strict=True)
    ]


@contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Whether this process may work on a folder: nobody else is at it, and it is not finished."""
    with locked(folder.with_name(f"{folder.name}.lock")) as mine:
        yield mine and not (folder / "model").exists()
