"""What tests of families whose layers mix rows through a state ask alike."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import saccade
from matrix.cases import PLANS, SCENES, TOLERANCE
from saccade.engine import kv_lengths
from saccade.families import find
from saccade.measure.counter import meter
from support.models import SQUARE, Tiny
from support.reference import gap, kv_rows, recompute
from support.sight import held


def check_layers(tiny: Tiny, plan: str, scene: str) -> None:
    """Every layer equals the stock layer on the rows that are alive, and the cache holds what it should."""
    samples, padding = SCENES[scene]
    given = tiny.batch(samples, padding, seed=1)
    with torch.no_grad(), saccade.apply(tiny.model, plan):
        ours = tiny.model(**given)
    theirs = recompute(tiny.model, PLANS[plan], given).logits
    assert gap(ours.logits, theirs, given["attention_mask"]) < 2 * TOLERANCE
    rows = kv_rows(PLANS[plan], 4, tiny.visual(given), given["attention_mask"])
    assert kv_lengths(ours.past_key_values) == held(tiny.model.config, rows)


def layer_flops(tiny: Tiny, plan: str, given: dict[str, Any]) -> int:
    """FLOPs that torch counts in the decoder's layers under a plan."""
    layers = find(tiny.model).parts(tiny.model).layers
    with saccade.apply(tiny.model, plan):
        counting, hooks = [meter() for _ in layers], []
        for one, layer in zip(counting, layers, strict=True):
            hooks.append(layer.register_forward_pre_hook(lambda m, a, one=one: one.__enter__() and None))
            hooks.append(layer.register_forward_hook(lambda m, a, o, one=one: one.__exit__(None, None, None)))
        tiny.model(**given)
        for hook in hooks:
            hook.remove()
    return sum(one.get_total_flops() for one in counting)


def check_refused(tiny: Tiny, plan: str, match: str) -> None:
    """A plan is refused in one line, at the latest by the forward."""
    with (
        pytest.raises(ValueError, match=match) as told,
        torch.no_grad(),
        saccade.apply(tiny.model, plan),
    ):
        tiny.model(**tiny.batch([[3, SQUARE, 5]]))
    assert "\n" not in str(told.value)
