"""The one list of families: by model type, each imported when it is taken out."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

from saccade.core.tower import TowerAbility
from saccade.families.base import Family
from saccade.system.listing import files_with, registered

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
    """The adapters of this folder by model type, from their text: nothing of transformers is imported.

    Those are left out whose models the installed release does not have (``since``).
    """
    here = _release(version("transformers"))
    return {
        kind: Adapter(found["name"], stem, found.get("tower_can", ()))
        for stem in files_with(_FOLDER, r"^@register$")
        for found in registered(_FOLDER / f"{stem}.py")
        if _release(found.get("since", "0.0")) <= here
        for kind in found["model_types"]
    }


def _release(said: str) -> tuple[int, ...]:
    return tuple(int(part) for part in said.split(".")[:2])


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
