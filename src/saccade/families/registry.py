"""The one list of families: by model type, each imported when a model of it is met."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from torch import nn

from saccade.core.tower import TowerAbility
from saccade.families.base import Family, unwrap
from saccade.system.listing import files_with, registered

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Adapter:
    """Where a family's adapter is.

    Attributes:
        name: What the family is called.
        module: File of this folder.
        tower_can: What can be done to patches inside its vision tower (``MergingTokens.tower_can``).
    """

    name: str
    module: str
    tower_can: tuple[TowerAbility, ...] = ()


@cache
def adapters() -> Mapping[str, Adapter]:
    """The adapters of this folder by model type, from their text: nothing of transformers is imported."""
    return {
        kind: Adapter(found["name"], stem, found.get("tower_can", ()))
        for stem in files_with(_FOLDER, r"^@register$")
        for found in registered(_FOLDER / f"{stem}.py")
        for kind in found["model_types"]
    }


class Registry(Mapping[str, Family]):
    """Families by model type. What is listed is known; what is taken out is imported."""

    def __init__(self) -> None:
        self._met: dict[str, Family] = {}

    def __getitem__(self, kind: str) -> Family:
        if kind not in self._met and kind in adapters():
            importlib.import_module(f"saccade.families.{adapters()[kind].module}")
        return self._met[kind]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({*adapters(), *self._met}))

    def __len__(self) -> int:
        return len({*adapters(), *self._met})

    def __contains__(self, kind: object) -> bool:
        return kind in self._met or kind in adapters()

    def add(self, kind: str, family: Family) -> None:
        """Adds a family under a model type.

        Raises:
            ValueError: If the model type is taken.
        """
        met, listed = self._met.get(kind), adapters().get(kind)
        if met is not None and type(met).__qualname__ != type(family).__qualname__:
            raise ValueError(f"model type {kind!r} is taken by {met.name}")
        if listed is not None and listed.name != family.name:
            raise ValueError(f"model type {kind!r} is taken by {listed.name}")
        self._met[kind] = family


FAMILIES = Registry()


def names() -> list[str]:
    """What the families are called; none is imported."""
    met = (family.name for family in FAMILIES._met.values())
    return sorted({*(one.name for one in adapters().values()), *met})


def abilities() -> dict[str, tuple[TowerAbility, ...]]:
    """What can be done to patches inside the towers of all families, by their names; none is imported."""
    listed = {one.name: one.tower_can for one in adapters().values()}
    return listed | {family.name: family.tower_can for family in FAMILIES._met.values()}


def register(cls: type[Family]) -> type[Family]:
    """Adds a family to the registry under all its model types (used as a decorator).

    Raises:
        ValueError: If a model type is taken.
    """
    family = cls()
    for kind in cls.model_types:
        FAMILIES.add(kind, family)
    return cls


_ADOPTED: WeakKeyDictionary[nn.Module, Family] = WeakKeyDictionary()
"""Models with an adapter of their own, made by inspection."""


def adopt(model: nn.Module, family: Family) -> None:
    """Gives one model an adapter, for as long as it lives."""
    _ADOPTED[unwrap(model)] = family


def find(what: nn.Module | PreTrainedConfig, generic: bool = False) -> Family:
    """The family of a model or configuration.

    Where one class of transformers holds models with another tower, their adapter is listed under both types.

    Args:
        what: The model, or its configuration.
        generic: Whether an adapter made by inspection will do where nobody wrote one. A model is looked at
            once, and keeps what was found.

    Raises:
        ValueError: If no adapter knows the model type, or none can be made.
    """
    model = unwrap(what) if isinstance(what, nn.Module) else None
    if model is not None and model in _ADOPTED:
        return _ADOPTED[model]
    config = getattr(model, "config", what)
    kind = getattr(config, "model_type", type(what).__name__)
    seen = f"{kind}+{getattr(getattr(config, 'vision_config', None), 'model_type', '')}"
    if seen in FAMILIES:
        return FAMILIES[seen]
    if kind in FAMILIES:
        return FAMILIES[kind]
    if not generic:
        raise ValueError(
            f"no adapter for model type {kind!r}; supported: {', '.join(FAMILIES)}. One made by inspection "
            "may do: saccade check MODEL --generic. A new family is one file in saccade/families "
            "(CONTRIBUTING says how)"
        )
    from saccade.families.generic import GenericFamily

    if model is None:
        return GenericFamily()
    adopt(model, GenericFamily.of(model))
    return _ADOPTED[model]
