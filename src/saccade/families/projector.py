"""What stands in a projector's place: where that is, and how another module is put in and taken out.

Shape letters: N rows of one image, D decoder width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import nn

_MISSING = object()


@runtime_checkable
class ProjectorStandIn(Protocol):
    """A module in the projector's place that makes another number of rows of an image."""

    def length(self, rows: int) -> int:
        """Rows of the decoder that an image becomes of which the stock projector makes so many."""

    def pack(self, rows_ND: torch.Tensor, whole: int) -> torch.Tensor:
        """Rows of the decoder of an image cut into tiles; the first ``whole`` embeddings are of all of it."""

    def identity(self) -> dict[str, Any]:
        """What tells a model with it from the stock one and from others (plain data, for fingerprints)."""


@dataclass(frozen=True, eq=False)
class ProjectorPlace:
    """The place between the vision tower and the decoder.

    Attributes:
        tower: The vision tower.
        projector: What stands there now.
        width: Width of a patch's features, of one level of the tower.
        grid: Patches along a side of a view.
        rows: Rows that the stock projector makes of a typical image.
        levels: Hidden states of the tower that the projector takes side by side.
    """

    tower: nn.Module
    projector: nn.Module
    width: int
    grid: int
    rows: int
    levels: int = 1


class ReplaceableProjector:
    """The part of an adapter that lays visual rows out anew; a family that names ``layouts`` writes it."""

    name: ClassVar[str]

    def projector_place(self, model: nn.Module, image_size: int | None = None) -> ProjectorPlace:
        """The place of the projector.

        Args:
            model: The model.
            image_size: Side of the image in pixels that the tower is to get; as it is if None.

        Raises:
            ValueError: If the tower cannot get images of that size, or the family names no layouts.
        """
        raise self._fixed()

    def stock_rows(self, config: Any, image_size: int | None = None) -> int:
        """Rows that the stock projector makes of a typical image, from the model's configuration alone.

        Args:
            config: The configuration.
            image_size: Side of the image in pixels; the model's own if None.

        Raises:
            ValueError: If the family names no layouts.
        """
        raise self._fixed()

    def replace_projector(
        self,
        model: nn.Module,
        processor: Any,
        module: nn.Module,
        image_size: int | None = None,
        levels: Sequence[int] = (),
    ) -> Callable[[], None]:
        """Puts a module in the projector's place, and tells the processor of its lengths.

        Args:
            model: The model.
            processor: Its processor, or None.
            module: The module, a ``ProjectorStandIn``.
            image_size: Side of the image in pixels that the tower gets from now on; as it is if None.
            levels: Hidden states of the tower that become features; as they are if empty.

        Returns:
            What undoes it.

        Raises:
            ValueError: If the tower cannot get images of that size or has no such hidden states, or the
                family names no layouts.
        """
        raise self._fixed()

    def _fixed(self) -> ValueError:
        return ValueError(
            f"{self.name} cannot take other rows in place of its own: its images are laid out one way only"
        )


class Undo:
    """Notes how to take changes back, in reverse order."""

    def __init__(self) -> None:
        self._steps: list[Callable[[], None]] = []

    def append(self, step: Callable[[], None]) -> None:
        """Notes how to take something back."""
        self._steps.append(step)

    def attribute(self, owner: Any, name: str, value: Any) -> None:
        """Sets an attribute (a sub-module too), and notes what it was."""
        if isinstance(owner, nn.Module) and name in owner._modules:
            old = owner._modules[name]
        else:
            old = owner.__dict__.get(name, _MISSING)
        setattr(owner, name, value)

        def restore() -> None:
            if old is _MISSING:
                owner.__dict__.pop(name, None)
            else:
                setattr(owner, name, old)

        self._steps.append(restore)

    def all(self) -> None:
        """Takes everything back; calling it again does nothing."""
        while self._steps:
            self._steps.pop()()


def projector_stand_in(core: Any) -> ProjectorStandIn | None:
    """What stands in the projector's place and makes another number of rows, or None."""
    module: Any = getattr(core, "multi_modal_projector", None)
    copies = getattr(module, "modules_to_save", None)
    if copies is not None:
        # PEFT trains a copy of the module, which runs in its place unless adapters are off.
        active = [] if module.disable_adapters else [n for n in module.active_adapters if n in copies]
        module = copies[active[0]] if active else module.original_module
    return module if isinstance(module, ProjectorStandIn) else None
