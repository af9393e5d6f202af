"""How models that were opened here were opened: what results and plan files say of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from saccade.families import unwrap
from saccade.opening.settings import Opening

_OPENED: WeakKeyDictionary[nn.Module, dict[str, Any]] = WeakKeyDictionary()


def note_opened(model: nn.Module, opening: Opening, folder: Path | None = None) -> None:
    """Keeps how a model was opened, for as long as it lives.

    Args:
        model: The model.
        opening: How.
        folder: Where its files lay; one of the hub's cache is named by its commit.
    """
    commit = folder.name if folder is not None and folder.parent.name == "snapshots" else None
    _OPENED[unwrap(model)] = opening.recorded() | {"commit": commit}


def how_opened(model: nn.Module) -> dict[str, Any] | None:
    """How a model was opened, as JSON has it; None where others opened it.

    Fields of `Opening` but the device, and ``commit``: which of the hub it was, None for a folder.
    """
    found = _OPENED.get(unwrap(model))
    return None if found is None else dict(found)
