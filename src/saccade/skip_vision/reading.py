"""Reading what ``save`` wrote: a Skip-Vision model, wrapped, its method on."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from saccade.core.text import short
from saccade.opening import Opening
from saccade.opening.loaded import Loaded, read
from saccade.opening.opened import note_opened
from saccade.skip_vision.folder import BASE, CONFIG, WEIGHTS, is_skip_vision, read_config
from saccade.skip_vision.placed import wrapped
from saccade.skip_vision.wrap import wrap
from saccade.system.files import read_json


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
    return open_as(folder, Opening.of(dtype=dtype, device=device))


def open_as(folder: str | os.PathLike, opening: Opening, name: str | None = None) -> Loaded:
    """Reads what ``save`` wrote as an `Opening` says.

    Args:
        folder: The folder.
        opening: How.
        name: What the user calls it; the folder if omitted.

    Raises:
        ValueError: If a part is missing, of another model or a newer version, or the opening leaves the
            projector where nothing can take its place.
    """
    folder, name = Path(folder), str(folder) if name is None else name
    if not folder.is_dir():
        raise ValueError(f"no such folder: {folder}")
    if not is_skip_vision(folder) and not (folder / WEIGHTS).exists():
        raise ValueError(
            f"{folder} holds no Skip-Vision model, which skip_vision.save writes; saccade.load reads others"
        )
    for part in (CONFIG, WEIGHTS, BASE):
        if not (folder / part).exists():
            raise ValueError(
                f"{folder} is a Skip-Vision model without its {part}: its abstractor and summaries are "
                "missing. Copy the whole folder; base/ alone is another model"
            )
    config = read_config(folder)
    # Folders of the first versions do not say; they have one.
    speaks = read_json(folder / CONFIG).get("processor", True) is not False
    # A revision is of the hub id that the folder was fetched by.
    loaded = read(folder / BASE, name, opening.but(revision=None), speaks)
    # Another process opens the whole model, not the stock one in it.
    note_opened(loaded.model, opening, folder, name)
    try:
        own = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"cannot read {folder / WEIGHTS}: {error}") from error
    loaded = wrap(loaded, config)
    done = wrapped(loaded.model)
    assert done is not None
    try:
        done.abstractor.load_state_dict(own)
    except RuntimeError as error:
        why = short(str(error), 400)
        raise ValueError(f"{folder}: the abstractor's weights do not fit its configuration: {why}") from error
    return loaded
