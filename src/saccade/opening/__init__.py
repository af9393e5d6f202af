"""Opening a model: its processor and its weights, from a folder or the hub, or one line that says why not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from saccade.opening.settings import Opening, read_device, read_dtype
from saccade.system.lazy import attributes

if TYPE_CHECKING:
    from saccade.opening.model import open_config, open_model, open_processor

__all__ = ["Opening", "open_config", "open_model", "open_processor", "read_device", "read_dtype"]


# A command line is read before transformers is needed.
__getattr__ = attributes(
    __name__, dict.fromkeys(("open_config", "open_model", "open_processor"), "saccade.opening.model")
)
