"""Glance and Gaze: miniature vision-language models that ship with the package, and their suite of tasks.

Each is a stock `LlavaForConditionalGeneration` with its processor, loaded as any checkpoint from a hub is.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from saccade.system.embedded import GLANCE

if TYPE_CHECKING:
    import torch
    from transformers import LlavaForConditionalGeneration, LlavaProcessor

__all__ = ["checkpoint", "load", "weights_path"]


def weights_path() -> Path:
    """Folder of the shipped checkpoint."""
    return GLANCE.folder


def checkpoint() -> Path:
    """Folder of the shipped checkpoint, with its weights.

    Raises:
        ValueError: If this installation has no weights, as one that was built from the source distribution.
    """
    return GLANCE.checkpoint()


def load(
    path: str | Path | None = None, dtype: torch.dtype | None = None
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """Load Glance, ready to generate.

    Args:
        path: Folder of a checkpoint; the shipped one by default.
        dtype: Number format; float32 by default, the weights themselves are stored in half precision.

    Raises:
        ValueError: If there is no checkpoint.
    """
    import torch

    from saccade.opening import Opening, open_model

    folder = Path(path) if path is not None else checkpoint()
    if not (folder / "config.json").exists():
        raise ValueError(f"no Glance checkpoint in {folder}; train one with `saccade train glance`")
    return open_model(str(folder), Opening(dtype=dtype or torch.float32, device="cpu"))
