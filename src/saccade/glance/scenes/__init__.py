"""Scene types and their seeds: an integer makes a scene, and no two splits share an integer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from saccade.glance.draw import PLAIN, DrawnLook
from saccade.glance.scenes import chart, diagram, digits, objects, text
from saccade.glance.scenes.base import Scene

MAKERS: dict[str, Callable] = {
    "objects": objects.make,
    "text": text.make,
    "digits": digits.make,
    "chart": chart.make,
    "diagram": diagram.make,
}
KINDS = tuple(MAKERS)
SHARES = (("objects", 0.42), ("text", 0.18), ("digits", 0.12), ("chart", 0.12), ("diagram", 0.16))
"""How often each type is drawn for training."""
SPLITS = ("train", "calibration", "test")
_SPLIT_SPAN = 1 << 48

__all__ = ["KINDS", "MAKERS", "SHARES", "SPLITS", "Scene", "make_scene", "scene_seed", "split_of"]


def scene_seed(split: str, index: int) -> int:
    """Seed number `index` of a split; ranges of different splits never meet."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; choose from {', '.join(SPLITS)}")
    if not 0 <= index < _SPLIT_SPAN:
        raise ValueError(f"scene index {index} is outside [0, 2^48)")
    return SPLITS.index(split) * _SPLIT_SPAN + index


def split_of(seed: int) -> str:
    """The split a scene seed belongs to."""
    return SPLITS[seed // _SPLIT_SPAN]


def make_scene(kind: str, seed: int, look: DrawnLook = PLAIN) -> Scene:
    """Make the scene of a type and a seed; the same arguments always give the same scene."""
    rng = np.random.default_rng((seed, KINDS.index(kind)))
    pixels, labels, facts = MAKERS[kind](rng, split_of(seed), look)
    return Scene(kind, seed, pixels, labels, facts)
