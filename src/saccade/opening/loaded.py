"""A model with its processor and its adapter, as everything that asks it questions takes it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from saccade.core.shapes import ModelShape
from saccade.families import Family, find, unwrap
from saccade.opening.accepted import take_report
from saccade.opening.settings import Opening


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model with what is needed to ask it questions.

    Attributes:
        model: The stock model, in eval mode.
        processor: Its processor.
        family: Its adapter.
        shape: Sizes of its decoder.
        name: What the user called it.
    """

    model: Any
    processor: Any
    family: Family
    shape: ModelShape
    name: str

    @property
    def device(self) -> torch.device:
        """Where its inputs go (``input_device``)."""
        return input_device(self.model)


def input_device(model: Any) -> torch.device:
    """Where a model's inputs go: where it computes, also if its first weights lie on the disk or the host."""
    inner: Any = unwrap(model)
    if inner.device.type != "meta":
        return inner.device
    # Offloaded weights are on no device between calls; accelerate's hooks know where they come to.
    hooks = [module.__dict__.get("_hf_hook") for module in inner.modules()]
    places = [place for hook in hooks if (place := getattr(hook, "execution_device", None)) is not None]
    return torch.device(places[0]) if places else inner.device


def read(where: str | Path, name: str, opening: Opening, speaks: bool = True) -> Loaded:
    """Reads a stock model and its processor.

    Args:
        where: A folder or a hub id.
        name: What the user calls it.
        opening: How.
        speaks: Whether it has a processor; without one it takes ready-made inputs alone.

    Raises:
        ValueError: If it cannot be loaded, or its family is not supported.
    """
    from saccade.opening.model import open_model

    model, processor = open_model(str(where), opening, speaks)
    return wrap(model, processor, name, opening.generic, opening.accepted)


def wrap(
    model: Any, processor: Any, name: str = "", generic: bool = False, accepted: str | Path | None = None
) -> Loaded:
    """Pairs a model and a processor that are loaded already.

    Args:
        model: The model.
        processor: Its processor, or None.
        name: What the user calls it.
        generic: Whether an adapter made by inspection serves where nobody wrote one for the family.
        accepted: A report of ``saccade check`` that accepted such an adapter for this very model.

    Raises:
        ValueError: If the model's family is not supported, or the report is of another model.
    """
    family = find(model, generic or accepted is not None)
    if accepted is not None:
        take_report(Path(accepted), model, family)
    name = name or model.config.model_type
    return Loaded(model, processor, family, family.shape(model.config, name), name)
