"""A Skip-Vision model as a folder: the stock model, and beside it what is ours.

``config.json``, an index of weights and ``base/`` keep the two apart: a loader that knows only stock models
stops at one of the first two, and ``base/`` is a stock model folder with the trained decoder.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from saccade._version import __version__
from saccade.families import find, unwrap
from saccade.opening import Opening
from saccade.opening.bars import quiet_bars
from saccade.opening.loaded import Loaded
from saccade.opening.source import files_of
from saccade.skip_vision.config import SkipVisionConfig
from saccade.skip_vision.placed import put_on, unwrap_skip_vision, wrapped
from saccade.system.embedded import EMBEDDED
from saccade.system.files import read_json, write_folder, write_json

CONFIG, WEIGHTS, BASE = "skip_vision.json", "skip_vision.safetensors", "base"
SCHEMA = 1
"""Version of the folder; newer ones are refused."""

ABOUT = ("schema", "version", "processor")
"""What the configuration's file says of the folder rather than of the model."""

KIND = "saccade_skip_vision"
GUARD = {
    # The Auto classes print this where they say that they do not know it.
    "model_type": f"{KIND}: load this folder with saccade.load, of the package saccade",
    "note": "A Skip-Vision model: load it with saccade.load(folder). base/ alone is a stock model without "
    "its abstractor, summaries and skipping.",
}
"""What a stock loader finds, and stops at."""

INDEX = "model.safetensors.index.json"
SIGN = {
    "metadata": {"total_size": 0},
    "weight_map": {"all": "(of Skip-Vision: load this folder with saccade.load, of the package saccade)"},
}
"""What a model class finds that does not look at the model type: it names the file that it misses."""


def save(loaded: Loaded, folder: str | os.PathLike) -> Path:
    """Writes a wrapped model, whole or not at all; a folder of the same kind is replaced.

    Args:
        loaded: The model; a processor of None is left out.
        folder: Where.

    Raises:
        ValueError: If the model is not wrapped or has adapters, or the folder holds something else.
    """
    folder = Path(folder)
    _check_whole(loaded)
    if folder.is_dir() and any(folder.iterdir()) and not (folder / CONFIG).is_file():
        raise ValueError(f"{folder} holds something else than a Skip-Vision model; choose another folder")
    with write_folder(folder) as fresh:
        _write(loaded, fresh)
    return folder


def save_beside(
    loaded: Loaded,
    folder: str | os.PathLike,
    weights: Mapping[str, torch.Tensor] | None = None,
    shards: int | str | None = None,
) -> None:
    """Writes a wrapped model into a folder that may hold other files, as ``save_pretrained`` does.

    Args:
        loaded: The model.
        folder: Where; what else is there stays.
        weights: All of the wrapped model's parameters by name, where the model holds shards; its own if None.
        shards: Largest file of the base model's weights.

    Raises:
        ValueError: If the model is not wrapped or has adapters, or there is a file in the folder's place.
    """
    folder = Path(folder)
    _check_whole(loaded)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"cannot write {folder}: it is a file, and a folder is to be written")
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / ".skip_vision.part"
    try:
        with write_folder(part) as fresh:
            _write(loaded, fresh, weights, shards)
        # Without it the folder is refused as incomplete, so it goes first and comes last.
        (folder / CONFIG).unlink(missing_ok=True)
        for made in sorted(part.iterdir(), key=lambda path: path.name == CONFIG):
            target = folder / made.name
            if target.is_dir():
                shutil.rmtree(target)
            os.replace(made, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _check_whole(loaded: Loaded) -> None:
    if wrapped(loaded.model) is None:
        raise ValueError("this model is not wrapped for Skip-Vision; save it with save_pretrained")
    if _has_adapters(loaded.model):
        raise ValueError(
            "merge the adapters first: model = peft_model.merge_and_unload(); a folder keeps whole weights"
        )


def _write(
    loaded: Loaded,
    fresh: Path,
    weights: Mapping[str, torch.Tensor] | None = None,
    shards: int | str | None = None,
) -> None:
    """Fills an empty folder with all that belongs to a wrapped model."""
    done = wrapped(loaded.model)
    assert done is not None
    abstractor, stock = done.abstractor, unwrap(loaded.model)
    own: Mapping[str, torch.Tensor] = abstractor.state_dict()
    base: dict[str, torch.Tensor] | None = None
    if weights is not None:
        place = next(name for name, module in stock.named_modules() if module is abstractor) + "."
        own = {n.removeprefix(place): t for n, t in weights.items() if n.startswith(place)}
        base = {n: t for n, t in weights.items() if not n.startswith(place)}
    unwrap_skip_vision(loaded)
    try:
        if base is not None:
            # The stock projector either is a part of the abstractor, or rests, unchanged.
            projector = loaded.family.projector_place(loaded.model).projector
            kept = projector is abstractor.project
            base |= {place + n: own[f"project.{n}"] if kept else t for n, t in projector.state_dict().items()}
        options: dict[str, Any] = {} if shards is None else {"max_shard_size": shards}
        whole: Any = stock
        with quiet_bars():
            whole.save_pretrained(fresh / BASE, state_dict=base, **options)
        if loaded.processor is not None:
            loaded.processor.save_pretrained(fresh / BASE)
    finally:
        put_on(loaded, done.config, abstractor, done.saver)
    save_file({n: t.detach().cpu().clone().contiguous() for n, t in own.items()}, fresh / WEIGHTS)
    about = {"schema": SCHEMA, "version": __version__, "processor": loaded.processor is not None}
    write_json(fresh / CONFIG, about | done.config.to_dict())
    write_json(fresh / "config.json", GUARD)
    write_json(fresh / INDEX, SIGN)


def _has_adapters(model: torch.nn.Module) -> bool:
    kinds = {cls for module in model.modules() for cls in type(module).__mro__}
    return any(cls.__module__.partition(".")[0] == "peft" for cls in kinds)


def is_skip_vision(folder: str | os.PathLike) -> bool:
    """Whether a folder holds (or held) a Skip-Vision model."""
    folder = Path(folder)
    if (folder / CONFIG).is_file():
        return True
    guard = folder / "config.json"
    return guard.is_file() and f'"{KIND}' in guard.read_text(encoding="utf-8", errors="replace")


def folder_of(name: str, opening: Opening, weights: bool = False) -> Path | None:
    """The folder of a Skip-Vision model; that of a hub id is fetched.

    Args:
        name: A folder, a hub id or an embedded model.
        opening: Which revision of a hub id, and how to reach it.
        weights: Whether its weights are wanted, or settings alone.

    Returns:
        The folder, or None for other models.

    Raises:
        ValueError: If there is no such folder, or the hub does not give it.
    """
    if name in EMBEDDED:
        return None
    folder = files_of(name, opening.hub, weights=False)
    if not is_skip_vision(folder):
        return None
    return files_of(name, opening.hub, kind=(WEIGHTS, f"{BASE}/model*.safetensors")) if weights else folder


def base_of(folder: str | os.PathLike) -> Path:
    """The stock model's folder within a Skip-Vision model's; other folders are their own."""
    folder = Path(folder)
    return folder / BASE if is_skip_vision(folder) else folder


def read_config(folder: str | os.PathLike) -> SkipVisionConfig:
    """The configuration of a Skip-Vision model's folder; no weights are read.

    Raises:
        ValueError: If it is missing, damaged or of a newer version.
    """
    folder = Path(folder)
    data: Any = read_json(folder / CONFIG)
    if not isinstance(data, dict) or type(data.get("schema")) is not int:
        raise ValueError(f"{folder / CONFIG} is not the configuration of a Skip-Vision model")
    if not 1 <= data["schema"] <= SCHEMA:
        raise ValueError(
            f"{folder / CONFIG} has schema {data['schema']}; this version of saccade reads up to {SCHEMA}"
        )
    try:
        return SkipVisionConfig.from_dict({k: v for k, v in data.items() if k not in ABOUT})
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG}: {error}") from None


def identity(name: str, config: Any, opening: Opening | None = None) -> dict[str, Any]:
    """What ``Family.identity`` says of a model, from its name and stock configuration, without weights."""
    found = find(config, generic=True).fingerprint(config)
    folder = folder_of(name, opening or Opening())
    return found if folder is None else found | {"skip_vision": read_config(folder).identity()}
