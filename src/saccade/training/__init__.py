"""Training any supported VLM on conversations, with or without a plan on its layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from saccade.system.lazy import attributes

if TYPE_CHECKING:
    from saccade.training.config import TrainingConfig, read_config
    from saccade.training.run import TrainingOutcome, train

__all__ = ["TrainingConfig", "TrainingOutcome", "read_config", "train"]

# A wrong setting is refused before transformers is imported.
__getattr__ = attributes(
    __name__,
    {
        **dict.fromkeys(("TrainingConfig", "read_config"), "saccade.training.config"),
        **dict.fromkeys(("TrainingOutcome", "train"), "saccade.training.run"),
    },
)
