"""Changes to one model and its processor that can be undone, and what stands in a projector's place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from saccade.families.vision import Abstracts

_MISSING = object()


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


def hosted_in(core: Any) -> Abstracts | None:
    """What stands in the projector's place and makes another number of rows, or None."""
    module: Any = core.multi_modal_projector
    # PEFT keeps the module that it trains whole under its adapter's name.
    module = getattr(module, "original_module", module)
    return module if hasattr(module, "length") and hasattr(module, "pack") else None
