"""What a forward of the whole model was given, read before its text decoder runs.

Shape letters: B batch, N rows.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from saccade.core.layout import Layout
from saccade.engine.tower import Captured, in_order
from saccade.families import Family
from saccade.families.vision import Picture

FILMS = "pixel_values_videos"
"""By which argument the pixels of videos come."""


@dataclass(frozen=True, eq=False)
class Prompt:
    """What the core was given.

    Attributes:
        visual_BN: Rows that hold a visual placeholder and are not hidden as padding.
        real_BN: Rows that are not padding, or None.
        inputs: All arguments by name.
        shown_R: Which of all placeholders are not hidden, one after another, on the host; None for all.
    """

    visual_BN: torch.Tensor
    real_BN: torch.Tensor | None
    inputs: dict[str, Any]
    shown_R: torch.Tensor | None = None

    @classmethod
    def of(cls, placeholders_BN: torch.Tensor, padding: Any, inputs: dict[str, Any]) -> Prompt:
        """Reads a prompt.

        Args:
            placeholders_BN: Rows that hold a visual placeholder.
            padding: The attention mask, if it was given.
            inputs: All arguments by name.
        """
        if not isinstance(padding, torch.Tensor) or padding.ndim != 2:
            return cls(placeholders_BN, None, inputs)
        real_BN = padding[:, -placeholders_BN.shape[1] :]
        shown_BN = placeholders_BN & real_BN.to(placeholders_BN.device, torch.bool)
        shown_R = shown_BN[placeholders_BN].cpu()
        return cls(shown_BN, real_BN, inputs, None if bool(shown_R.all()) else shown_R)


def layout_of(family: Family, prompt: Prompt | None, captured: Captured | None) -> Layout | None:
    """Where the visual rows are. Without a picture, every unbroken run of them counts as one image."""
    if prompt is None:
        return None
    if captured is None:
        layout = Layout.from_mask(prompt.visual_BN, prompt.real_BN)
    else:
        layout = _cut(prompt.visual_BN, prompt.real_BN, captured.picture)
    return _told(family, layout, prompt.inputs)


def layout_of_inputs(family: Family, model: nn.Module, inputs: Mapping[str, Any]) -> Layout:
    """Where the visual rows of ready inputs are, and how their images are cut into views.

    Raises:
        ValueError: If the images do not fill the prompts.
    """
    visual_BN = family.visual_mask(model, inputs["input_ids"])
    picture = family.picture(model, inputs)
    if picture is None:
        return _told(family, Layout.from_mask(visual_BN, inputs.get("attention_mask")), inputs)
    if all(inputs.get(kind) is not None for kind in ("pixel_values", FILMS)):
        # Images come before videos here, and in the prompts as they were written.
        alone = family.picture(model, {key: value for key, value in inputs.items() if key != FILMS})
        assert alone is not None
        count, numbers = len(alone.lengths), range(len(picture.lengths))
        order = in_order(
            family, model, (numbers[:count], numbers[count:]), picture.lengths, inputs["input_ids"]
        )
        picture = picture.take(order)
    layout = _cut(visual_BN, inputs.get("attention_mask"), family.grouped(model, picture, inputs))
    return _told(family, layout, inputs)


def _told(family: Family, layout: Layout, inputs: Mapping[str, Any]) -> Layout:
    """The same with the blocks of a prompt on no cache, where the model is told them row by row."""
    block_BN = family.blocks(inputs, 0) if family.tells_blocks else None
    if block_BN is None or block_BN.shape != layout.real_BN.shape:
        return layout
    return replace(layout, block_BN=block_BN.cpu().long().masked_fill(~layout.real_BN, -1))


def _cut(visual_BN: torch.Tensor, real_BN: torch.Tensor | None, picture: Picture) -> Layout:
    lengths = _by_sample(picture.lengths, visual_BN.sum(1).tolist())
    layout = Layout.from_mask(visual_BN, real_BN, lengths)
    sizes = picture.view_sizes
    if sizes is None:
        return layout
    left = iter(sizes)
    return replace(layout, views=tuple(tuple(next(left) for _ in sample) for sample in lengths))


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


def goes_on(named: Mapping[str, Any], images: bool) -> bool:
    """Whether a forward holds no more than tokens that follow what its cache holds already."""
    cache = named.get("past_key_values")
    past = 0 if cache is None else cache.get_seq_length()
    return past > 0 and named.get("input_ids") is not None and not images


def by_name(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """All arguments of a call by name."""
    return (
        dict(zip(inspect.signature(module.forward).parameters, args, strict=False)) | kwargs
        if args
        else kwargs
    )
