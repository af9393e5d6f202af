"""Glance and Gaze: miniature vision-language models that ship with the package, and their suite of tasks.

Each is a stock `LlavaForConditionalGeneration` with its processor, loaded as any checkpoint from a hub is.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import LlavaForConditionalGeneration, LlavaProcessor

__all__ = ["load", "weights_path"]


def weights_path() -> Path:
    """Folder of the shipped checkpoint."""
    return Path(__file__).parent / "weights"


def load(
    path: str | Path | None = None, dtype: torch.dtype | None = None
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """Load Glance, ready to generate.

    Args:
        path: Folder of a checkpoint; the shipped one by default.
        dtype: Number format; float32 by default, the weights themselves are stored in half precision.
    """
    import torch

    from saccade.opening import Opening, open_model

    folder = Path(path) if path is not None else weights_path()
    if not (folder / "config.json").exists():
        raise FileNotFoundError(f"no Glance checkpoint in {folder}; train one with `saccade train glance`")
    return open_model(str(folder), Opening(dtype=dtype or torch.float32, device="cpu"))
