"""Making a Skip-Vision model of a stock one, in place, and taking it apart again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from types import MethodType
from typing import Any

import torch
from torch import nn

from saccade.engine import attached
from saccade.families import unwrap
from saccade.families.projector import ProjectorPlace
from saccade.opening.loaded import Loaded
from saccade.skip_vision.abstractor import Abstractor
from saccade.skip_vision.chain_of_sight import ChainOfSight
from saccade.skip_vision.config import SkipVisionConfig
from saccade.skip_vision.folder import save_beside
from saccade.skip_vision.layouts import check_layout
from saccade.skip_vision.placed import put_on, unwrap_skip_vision, wrapped

VERSION = 2
"""Raised when answers of wrapped models come out otherwise; those that were kept are then not used again."""
MEANINGLESS = ("safe_serialization", "token", "save_peft_format", "save_original_format")
"""Options of ``save_pretrained`` without a meaning here: no adapters, and safetensors alone."""


def wrap(loaded: Loaded, config: SkipVisionConfig) -> Loaded:
    """Makes a Skip-Vision model of a loaded one, in place.

    The projector's place is taken by an abstractor that lays an image out as retained, skipped and summary
    rows, the processor is told how many placeholders that makes, and the method runs on the decoder as a
    resident plan: other plans may be applied over it. A model that is wrapped already keeps what fits of its
    trained parts: the scorer, the registers, and the resampler, inflated where the new one has more tokens.
    What cannot be wrapped so stays as it was.

    Args:
        loaded: The model and its processor.
        config: The layout and its switches.

    Returns:
        The same objects, with the shape of the new prompts.

    Raises:
        ValueError: If the family or its vision tower cannot be laid out so, the model has a plan, or it has
            another number of trained registers.
    """
    if not isinstance(config, SkipVisionConfig):
        raise ValueError(f"a model is wrapped by a SkipVisionConfig, got {type(config).__name__}")
    check_layout(loaded.family, config.layout)
    before = wrapped(loaded.model)
    old = None if before is None else before.abstractor
    if before is not None:
        unwrap_skip_vision(loaded)
    if attached(loaded.model) is not None:
        raise ValueError("this model has a saccade plan; remove it before wrapping the model")
    try:
        place = loaded.family.projector_place(loaded.model, config.image_size)
        config = _settled(config, place)
        return put_on(loaded, config, _build(loaded, config, place, old), _saver)
    except BaseException:
        # The trained abstractor of a wrapped model is nowhere else.
        if before is not None and old is not None:
            put_on(loaded, before.config, old, before.saver)
        raise


def _saver(loaded: Loaded) -> MethodType:
    """In place of ``save_pretrained``, which would write a stock folder without its projector."""

    def save_pretrained(
        self: nn.Module,
        save_directory: str | os.PathLike,
        is_main_process: bool = True,
        state_dict: Mapping[str, torch.Tensor] | None = None,
        max_shard_size: int | str | None = None,
        **options: Any,
    ) -> None:
        """Writes this Skip-Vision model, which ``saccade.load`` reads; other files of the folder stay."""
        if self is not unwrap(loaded.model):
            raise ValueError("this is a copy of a wrapped model, which is not saved; save the model itself")
        unknown = sorted(name for name, value in options.items() if value and name not in MEANINGLESS)
        if unknown:
            raise ValueError(f"a Skip-Vision model is not saved with {unknown[0]}; leave it out")
        if is_main_process:
            save_beside(loaded, save_directory, state_dict, max_shard_size)

    return MethodType(save_pretrained, unwrap(loaded.model))


def _settled(config: SkipVisionConfig, place: ProjectorPlace) -> SkipVisionConfig:
    """The configuration with the number of retained rows that its layout has on this model."""
    if config.layout == "llava-hd":
        return replace(config, retained=place.grid**2)
    return replace(config, retained=config.split(config.projected(place.rows))[0])


def _build(
    loaded: Loaded, config: SkipVisionConfig, place: ProjectorPlace, old: Abstractor | None
) -> Abstractor:
    """The abstractor of a configuration, with what fits of the trained parts of the one before it."""
    stock = next(place.projector.parameters())
    if stock.device.type == "meta":
        raise ValueError(
            f"{loaded.name}: the projector is offloaded, and what takes its place has to stay in memory: "
            "give it a device in the device map"
        )
    width, project, levels = loaded.shape.hidden, place.projector, len(config.levels) or place.levels
    if config.layout != "cos" and levels != place.levels:
        raise ValueError(
            f"the layout {config.layout} keeps the model's own projector, which takes {place.levels} of the "
            f"vision tower's hidden states, got levels {list(config.levels)}; several are for the layout cos"
        )
    if old is not None and not isinstance(old.project, ChainOfSight):
        project = old.project  # the model's own, or the copy that PEFT trained
    if config.layout == "cos":
        project = ChainOfSight(config.scales, place.grid, levels, place.width, width, config.heads)
        if old is not None and isinstance(old.project, ChainOfSight):
            project.inflate_from(old.project)
    abstractor = Abstractor(config, project, width)
    if old is not None and old.scorer is not None and abstractor.scorer is not None:
        abstractor.scorer.load_state_dict(old.scorer.state_dict())
    if old is not None and old.registers is not None and abstractor.registers is not None:
        have, wanted = len(old.registers), config.registers
        if have != wanted:
            raise ValueError(
                f"this model has {have} trained registers, which cannot become {wanted}: keep "
                f"registers={have}, or take the model apart first (unwrap_skip_vision), which forgets them"
            )
        with torch.no_grad():
            abstractor.registers.copy_(old.registers)
    return abstractor.to(device=stock.device, dtype=stock.dtype).train(loaded.model.training)
