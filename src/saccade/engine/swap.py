"""Putting another forward in a module's place, and taking it out whatever was put around it meanwhile."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn


def swap_forward(module: nn.Module, make: Callable[[Callable], Callable]) -> Callable[[], None]:
    """Replaces the forward of one instance; its class, its call and its hooks stay.

    Args:
        module: The instance.
        make: Makes the new forward of the one that is there.

    Returns:
        What undoes it.
    """
    # accelerate keeps the true forward in _old_forward; attaching there leaves its hooks around us.
    slot = "_old_forward" if "_old_forward" in module.__dict__ else "forward"
    own = slot in module.__dict__
    inner = getattr(module, slot)
    wrapper = make(inner)
    setattr(module, slot, wrapper)

    def undo() -> None:
        # Device hooks put on or taken off meanwhile have moved the wrapper to the other slot.
        for held in ("forward", "_old_forward"):
            if module.__dict__.get(held) is wrapper:
                if own or held == "_old_forward":
                    setattr(module, held, inner)
                else:
                    # The instance had no forward of its own: its class's shows again.
                    del module.__dict__[held]

    return undo
