"""Opening a model: its processor and its weights, from a folder or the hub, or one line that says why not."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from saccade.opening.settings import Opening, read_device, read_dtype

if TYPE_CHECKING:
    from saccade.opening.model import open_config, open_model, open_processor

_IN_MODEL = ("open_config", "open_model", "open_processor")

__all__ = ["Opening", "open_config", "open_model", "open_processor", "read_device", "read_dtype"]


def __getattr__(name: str) -> Any:
    # A command line is read before transformers is needed.
    if name in _IN_MODEL:
        return getattr(importlib.import_module("saccade.opening.model"), name)
    raise AttributeError(f"module 'saccade.opening' has no attribute {name!r}")
