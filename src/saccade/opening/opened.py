"""How models that were opened here were opened: what results and plan files say of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from saccade.families import unwrap
from saccade.opening.settings import Opening

_OPENED: WeakKeyDictionary[nn.Module, dict[str, Any]] = WeakKeyDictionary()
_FROM: WeakKeyDictionary[nn.Module, tuple[str, Opening]] = WeakKeyDictionary()


def note_opened(
    model: nn.Module, opening: Opening, folder: Path | None = None, name: str | None = None
) -> None:
    """Keeps how a model was opened, for as long as it lives.

    Args:
        model: The model.
        opening: How.
        folder: Where its files lay; one of the hub's cache is named by its commit.
        name: The folder or hub id that was opened, where another process can open it too.
    """
    commit = folder.name if folder is not None and folder.parent.name == "snapshots" else None
    _OPENED[unwrap(model)] = opening.recorded() | {"commit": commit}
    if name is not None:
        _FROM[unwrap(model)] = name, opening


def how_opened(model: nn.Module) -> dict[str, Any] | None:
    """How a model was opened, as JSON has it; None where others opened it.

    Fields of `Opening` but the device, and ``commit``: which of the hub it was, None for a folder.
    """
    found = _OPENED.get(unwrap(model))
    return None if found is None else dict(found)


def opening_of(model: nn.Module) -> tuple[str, Opening]:
    """By what name and how another process opens a model that is open here.

    Args:
        model: The model; one that others opened is opened by the name that transformers notes, as it is here.

    Raises:
        ValueError: If it was made in memory.
    """
    inner: Any = unwrap(model)
    if inner in _FROM:
        return _FROM[inner]
    name = str(getattr(inner, "name_or_path", ""))
    if not name:
        raise ValueError(
            "other processes cannot open a model that was made in memory: save it to a folder, and load it "
            "from there (saccade.load)"
        )
    attn = getattr(inner.config, "_attn_implementation", None) or "sdpa"
    return name, Opening(dtype=inner.dtype, device=inner.device.type, attn=attn)
