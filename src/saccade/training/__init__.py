"""Training any supported VLM on conversations, with or without a plan on its layers."""

from __future__ import annotations

from saccade.training.config import TrainingConfig, read_config
from saccade.training.run import TrainingOutcome, train

__all__ = ["TrainingConfig", "TrainingOutcome", "read_config", "train"]
