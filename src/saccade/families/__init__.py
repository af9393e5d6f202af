"""Adapters of model families, one per file, imported when a model of its type is met."""

from __future__ import annotations

from saccade.families.base import Family, Parts, core_of, unwrap
from saccade.families.deepstack import Added
from saccade.families.finding import adopt, find
from saccade.families.registry import FAMILIES, abilities, names, register
from saccade.families.turning import Rotary
from saccade.families.vision import Picture, Tower
from saccade.system.environment import has_torchvision

# A broken one fails in the first class of transformers that is asked for, and does not say why.
has_torchvision()

__all__ = [
    "FAMILIES",
    "Added",
    "Family",
    "Parts",
    "Picture",
    "Rotary",
    "Tower",
    "abilities",
    "adopt",
    "core_of",
    "find",
    "names",
    "register",
    "unwrap",
]
