"""What a forward of the whole model was given, read before its text decoder runs.

Shape letters: B batch, N rows.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from saccade.engine.tower import Captured
from saccade.layout import Layout


@dataclass(frozen=True, eq=False)
class Prompt:
    """What the core was given.

    Attributes:
        visual_BN: Rows that hold a visual placeholder.
        real_BN: Rows that are not padding, or None.
        inputs: All arguments by name.
    """

    visual_BN: torch.Tensor
    real_BN: torch.Tensor | None
    inputs: dict[str, Any]


def layout_of(prompt: Prompt | None, captured: Captured | None) -> Layout | None:
    """Where the visual rows are. Without a picture, every unbroken run of them counts as one image."""
    if prompt is None:
        return None
    lengths = None
    if captured is not None:
        lengths = _by_sample(captured.picture.lengths, prompt.visual_BN.sum(1).tolist())
    return Layout.from_mask(prompt.visual_BN, prompt.real_BN, lengths)


def _by_sample(lengths: Sequence[int], rows: Sequence[int]) -> list[list[int]]:
    """Rows of every image, sample by sample.

    Raises:
        ValueError: If the images do not fill the samples one after another.
    """
    left, found = list(lengths), []
    for total in rows:
        sample: list[int] = []
        while sum(sample) < total and left:
            sample.append(left.pop(0))
        found.append(sample)
        if sum(sample) != total:
            raise ValueError(
                f"a sample has {total} visual rows, but its images have {sum(sample)}; the plan needs every "
                "prompt in one piece, with its own images"
            )
    return found


def by_name(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """All arguments of a call by name."""
    return (
        dict(zip(inspect.signature(module.forward).parameters, args, strict=False)) | kwargs
        if args
        else kwargs
    )
