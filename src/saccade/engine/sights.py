"""Who sees whom in a forward: what the family states, with the blocks that this forward was told.

Shape letters: B batch, T rows of the full sequence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn.functional import pad

from saccade.core.sight import CAUSAL, Sight, begins
from saccade.core.sight_rule import SightRule
from saccade.families import Family


def sights_of(
    family: Family,
    rules: Sequence[SightRule],
    given: Mapping[str, Any],
    past: int,
    total: int,
    padding: torch.Tensor | None = None,
) -> tuple[Sight, ...]:
    """Who sees whom in every layer; equal rules are one object.

    Args:
        family: The model's adapter.
        rules: What it states for every layer.
        given: Arguments of the core, by name; empty where the decoder was called by itself.
        past: Rows of the full sequence before this forward.
        total: All of its rows.
        padding: (B, T) with 0 at padding, or None.
    """
    block_BT = family.blocks(given, past)
    if block_BT is not None:
        block_BT = _fitted(block_BT.cpu(), total, None if padding is None else padding.cpu().bool())
    if block_BT is None and all(rule.span is None for rule in rules):
        return (CAUSAL,) * len(rules)
    first = None if padding is None or all(rule.chunk is None for rule in rules) else begins(padding.cpu())
    made = {
        rule: Sight(rule.window, block_BT, rule.bounded, rule.chunk, first) for rule in dict.fromkeys(rules)
    }
    return tuple(made[rule] for rule in rules)


def _fitted(block_BT: torch.Tensor, total: int, real_BT: torch.Tensor | None) -> torch.Tensor | None:
    """The same for so many rows, padding in no block; None if there are none."""
    block_BT = pad(block_BT.long(), (0, max(0, total - block_BT.shape[1])), value=-1)[:, :total]
    block_BT = block_BT if real_BT is None else block_BT.masked_fill(~real_BT, -1)
    return block_BT if bool((block_BT >= 0).any()) else None
