"""Accuracy back after the cut: a plan's model learns from itself without the plan, through an adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from saccade.system.lazy import attributes

if TYPE_CHECKING:
    from saccade.healing.result import Healed
    from saccade.healing.run import heal
    from saccade.healing.settings import HealingSettings

__all__ = ["Healed", "HealingSettings", "heal"]

# A wrong setting is refused before transformers is imported.
__getattr__ = attributes(
    __name__,
    {
        "Healed": "saccade.healing.result",
        "HealingSettings": "saccade.healing.settings",
        "heal": "saccade.healing.run",
    },
)
