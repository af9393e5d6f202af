"""Adapters of model families, one per file; the files of this folder are found by name."""

from __future__ import annotations

import importlib
import pkgutil

from saccade.families.base import FAMILIES, Family, Parts, Rotary, core_of, find, register, unwrap
from saccade.families.deepstack import Added
from saccade.families.vision import Picture, Tower
from saccade.system.environment import has_torchvision

# A broken torchvision fails in the first class that is asked for, with nothing in the message that says so.
has_torchvision()

for _module in sorted(m.name for m in pkgutil.iter_modules(__path__)):
    importlib.import_module(f"{__name__}.{_module}")

__all__ = [
    "FAMILIES",
    "Added",
    "Family",
    "Parts",
    "Picture",
    "Rotary",
    "Tower",
    "core_of",
    "find",
    "register",
    "unwrap",
]
