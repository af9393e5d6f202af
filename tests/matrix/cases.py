"""What the matrix runs: plans with what they mean, batches of samples, and models that are built once."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import pytest
import torch

from support.models import BANNER, FACTORIES, RECURRENT, SEVERAL_AXES, SQUARE, TALL, WIDE, Segment, Tiny
from support.reference import Recipe

LAYERS = 4

PLAIN: dict[str, Recipe] = {
    "vskip(layers=1-2)": [("vskip", (1, 2))],
    "vskip(layers=0,2,reading=mask)": [("vskip_mask", (0, 2))],
    "ffn_skip(layers=0-1)": [("ffn_skip", (0, 1))],
    "shortv(layers=1-3)": [("shortv", (1, 2, 3))],
    "vtw(layer=2)": [("vtw", (2, 3))],
    "victor(registers=0,layer=2)": [("vtw", (2, 3))],
}
"""One plan of every method, with its meaning."""

COMPOSED: dict[str, Recipe] = {
    "vtw(layer=0)": [("vtw", (0, 1, 2, 3))],
    "vskip(layers=1)+vtw(layer=2)": [("vskip", (1,)), ("vtw", (2, 3))],
    "shortv(layers=0)+ffn_skip(layers=1-2)+vtw(layer=3)": [
        ("shortv", (0,)),
        ("ffn_skip", (1, 2)),
        ("vtw", (3,)),
    ],
    "vskip(layers=0-1)+ffn_skip(layers=1-2)": [("vskip", (0, 1)), ("ffn_skip", (1, 2))],
    "vskip(layers=1-2,reading=mask)+vtw(layer=2)": [("vskip_mask", (1, 2)), ("vtw", (2, 3))],
    "vskip(layers=1)+vskip(layers=1-2,reading=mask)": [("vskip", (1,)), ("vskip_mask", (1, 2))],
}
"""Plans of several methods, where their row sets meet, and an extreme one."""

PLANS = PLAIN | COMPOSED

Scene = tuple[list[list[Segment]], str]

SCENES: dict[str, Scene] = {
    "single-1": ([[3, SQUARE, 5]], "left"),
    "single-2": ([[2, WIDE, 1, TALL, 3]], "left"),
    "single-adjacent": ([[SQUARE, TALL, 4]], "left"),
    "ragged-1-left": ([[3, SQUARE, 5], [4], [2, TALL, 6]], "left"),
    "ragged-1-right": ([[3, SQUARE, 5], [4], [2, TALL, 6]], "right"),
    "ragged-2-left": ([[2, SQUARE, 3, WIDE, 2], [4], [3, TALL, 1, BANNER, 2]], "left"),
    "ragged-2-right": ([[2, SQUARE, 3, WIDE, 2], [4], [3, TALL, 1, BANNER, 2]], "right"),
    "ragged-012-right": ([[7], [1, SQUARE, 9], [2, WIDE, 1, TALL, 3]], "right"),
}
"""Batches with visual rows: one sample or a ragged three with a text-only one, one image or two."""


def fits(family: str, scene: str) -> bool:
    """Whether the family takes such prompts: some put text rows between any two images."""
    return not (family.startswith((*SEVERAL_AXES, "internvl")) and scene == "single-adjacent")


def suits(family: str, plan: str) -> bool:
    """Whether the family has what a plan looks at: layer 3 of the tiny Qwen3.5 has no attention."""
    return not (family in RECURRENT and "pyramiddrop(" in plan and "/3" in plan)


ATTENTIONS = ("sdpa", "eager")

share = pytest.mark.share
"""Of the cases of a test one in so many runs (``support.shares``)."""


def crossed(plans: Iterable[str]) -> list[tuple[str, str]]:
    """Plans with all models."""
    return [(plan, family) for plan in plans for family in FACTORIES if suits(family, plan)]


def scenes_of(plans: Iterable[str], scenes: Iterable[str]) -> list[tuple[str, str, str]]:
    """Plans with all models and the scenes that each takes."""
    return [(p, f, scene) for p, f in crossed(plans) for scene in scenes if fits(f, scene)]


TEXT: dict[str, Scene] = {
    "text": ([[6]], "left"),
    "text-left": ([[6], [3], [9]], "left"),
    "text-right": ([[6], [3]], "right"),
}
"""Batches without images."""

TOLERANCE = 1e-5
"""In fp32, relative to the largest logit."""

FAR = 1e-2
"""Skipping has to change the logits by more than this, or the comparison shows nothing."""


@lru_cache
def model(family: str, attn: str = "sdpa") -> Tiny:
    """A tiny model; leave it as you found it."""
    return FACTORIES[family](layers=LAYERS, attn=attn)


@lru_cache
def inputs(family: str, scene: str) -> dict[str, torch.Tensor]:
    """Inputs of a scene."""
    samples, padding = (SCENES | TEXT)[scene]
    return model(family).batch(samples, padding, seed=1)


@lru_cache
@torch.no_grad()
def stock(family: str, attn: str, scene: str) -> torch.Tensor:
    """Logits of the stock model."""
    return model(family, attn).model(**inputs(family, scene)).logits


def greedy(tiny: Tiny, given: dict[str, torch.Tensor], new: int = 8, **kwargs: Any) -> Any:
    """Greedy generation with logits and the cache; rows keep going after an end token."""
    return tiny.model.generate(
        **given,
        max_new_tokens=new,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
        **kwargs,
    )
