"""How far positions lie behind row numbers after a prompt: models of several axes keep it on themselves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_NAME = "rope_deltas"


def position_offsets(core: Any) -> torch.Tensor | None:
    """Offsets (B, 1) of the last prompt's later rows; None where the model keeps none."""
    return getattr(core, _NAME, None)


@contextmanager
def position_offsets_kept(core: Any) -> Iterator[None]:
    """Lets prompts run that leave no offsets behind: those of before are back afterwards."""
    if not hasattr(core, _NAME):
        yield
        return
    before = getattr(core, _NAME)
    setattr(core, _NAME, None)
    try:
        yield
    finally:
        setattr(core, _NAME, before)
