"""Opening a model: its processor and its weights, from a folder or the hub, or one line that says why not."""

from saccade.opening.model import open_config, open_model, open_processor
from saccade.opening.settings import Opening, read_device, read_dtype

__all__ = ["Opening", "open_config", "open_model", "open_processor", "read_device", "read_dtype"]
