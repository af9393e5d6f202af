"""A Skip-Vision model as a folder: the stock model, and beside it what is ours.

``config.json`` and ``base/`` keep the two apart: a loader that knows only stock models stops at the first,
and ``base/`` is a stock model folder with the trained decoder.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from saccade._version import __version__
from saccade.families import find, unwrap
from saccade.files import read_json, write_folder, write_json
from saccade.models import Loaded
from saccade.skip_vision.config import SkipVisionConfig
from saccade.skip_vision.wrap import put_on, unwrap_skip_vision, wrap, wrapped

CONFIG, WEIGHTS, BASE = "skip_vision.json", "skip_vision.safetensors", "base"
SCHEMA = 1
"""Version of the folder; newer ones are refused."""

GUARD = {
    "model_type": "saccade_skip_vision",
    "note": "A Skip-Vision model: load it with saccade.load(folder). base/ alone is a stock model without "
    "its abstractor, summaries and skipping.",
}
"""What a stock loader finds, and stops at."""


def save(loaded: Loaded, folder: str | os.PathLike) -> Path:
    """Writes a wrapped model, whole or not at all; a folder of the same kind is replaced.

    Raises:
        ValueError: If the model is not wrapped or has adapters, or the folder holds something else.
    """
    done = wrapped(loaded.model)
    if done is None:
        raise ValueError("this model is not wrapped for Skip-Vision; save it with save_pretrained")
    if _has_adapters(loaded.model):
        raise ValueError(
            "merge the adapters first: model = peft_model.merge_and_unload(); a folder keeps whole weights"
        )
    folder = Path(folder)
    if folder.is_dir() and any(folder.iterdir()) and not (folder / CONFIG).is_file():
        raise ValueError(f"{folder} holds something else than a Skip-Vision model; choose another folder")
    abstractor = done.abstractor
    own = {name: t.detach().clone().contiguous() for name, t in abstractor.state_dict().items()}
    unwrap_skip_vision(loaded)
    try:
        with write_folder(folder) as fresh:
            stock: Any = unwrap(loaded.model)
            stock.save_pretrained(fresh / BASE)
            loaded.processor.save_pretrained(fresh / BASE)
            save_file(own, fresh / WEIGHTS)
            write_json(fresh / CONFIG, {"schema": SCHEMA, "version": __version__} | done.config.to_dict())
            write_json(fresh / "config.json", GUARD)
    finally:
        put_on(loaded, done.config, abstractor)
    return folder


def _has_adapters(model: torch.nn.Module) -> bool:
    kinds = {cls for module in model.modules() for cls in type(module).__mro__}
    return any(cls.__module__.partition(".")[0] == "peft" for cls in kinds)


def is_skip_vision(folder: str | os.PathLike) -> bool:
    """Whether a folder holds (or held) a Skip-Vision model."""
    folder = Path(folder)
    if (folder / CONFIG).is_file():
        return True
    guard = folder / "config.json"
    return guard.is_file() and f'"{GUARD["model_type"]}"' in guard.read_text(
        encoding="utf-8", errors="replace"
    )


def base_of(folder: str | os.PathLike) -> Path:
    """The stock model's folder within a Skip-Vision model's; other folders are their own."""
    folder = Path(folder)
    return folder / BASE if is_skip_vision(folder) else folder


def load(
    folder: str | os.PathLike, dtype: torch.dtype | str | None = None, device: str | None = None
) -> Loaded:
    """Reads what ``save`` wrote: the model, wrapped, its method on.

    Args:
        folder: The folder.
        dtype: Data type of the weights; as saved by default.
        device: Where to put it.

    Raises:
        ValueError: If a part is missing, or of another model or a newer version.
    """
    from saccade import models

    folder = Path(folder)
    for part in (CONFIG, WEIGHTS, BASE):
        if not (folder / part).exists():
            raise ValueError(
                f"{folder} is a Skip-Vision model without its {part}: its abstractor and summaries are "
                "missing. Copy the whole folder; base/ alone is another model"
            )
    config = read_config(folder)
    loaded = models.load(str(folder / BASE), dtype, device)
    try:
        own = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"cannot read {folder / WEIGHTS}: {error}") from error
    loaded = wrap(models.wrap(loaded.model, loaded.processor, str(folder)), config)
    done = wrapped(loaded.model)
    assert done is not None
    try:
        done.abstractor.load_state_dict(own)
    except RuntimeError as error:
        raise ValueError(
            f"{folder}: the abstractor's weights do not fit its configuration: {error}"
        ) from error
    return loaded


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
    return SkipVisionConfig.from_dict({k: v for k, v in data.items() if k not in ("schema", "version")})


def identity(name: str, config: Any) -> dict[str, Any]:
    """What ``Family.identity`` says of a model, from its name and stock configuration, without weights."""
    found = find(config).fingerprint(config)
    if not is_skip_vision(name):
        return found
    return found | {"skip_vision": read_config(name).identity()}
