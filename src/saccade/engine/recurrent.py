"""Layers that mix rows through a state of fixed size (gated delta nets): their part of a routed forward.

The stock module runs on the rows that are alive, packed side by side, as on a prompt that has no others: so
its convolution, its scan and its kernels are its own. Rows that do not ask have written the state as all
others; their output is 0. Padding enters no state, wherever it stands.

Shape letters: B batch, N rows of this forward, R rows that enter, S samples of a group, D hidden.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from saccade.core.rows import RowIndex
from saccade.engine.cache import Cache, has_state, states_back, states_of
from saccade.engine.frame import Frame
from saccade.engine.steps import Step


def routed_recurrent(
    inner: Callable[..., torch.Tensor],
    frame: Frame,
    step: Step,
    hidden_BND: torch.Tensor,
    number: int,
    given: dict[str, Any],
) -> torch.Tensor:
    """Output (B, N, D) of a recurrent layer, zero at rows that do not ask.

    Args:
        inner: The stock module's forward.
        frame: This forward.
        step: This layer's row sets.
        hidden_BND: Normed hidden states of every new row.
        number: Where in the cache the layer's states are.
        given: The module's other arguments, by name.
    """
    rows = frame.entering(step)
    if rows is None:
        out = inner(hidden_BND, **given)
    elif not rows.count:
        out = torch.zeros_like(hidden_BND)
    else:
        held = next((key for key, value in given.items() if isinstance(value, Cache)), None)
        begun = held is not None and has_state(given[held], number)
        if rows.valid_BR is not None and held is not None and begun:
            out = _by_count(inner, rows, hidden_BND, number, held, given)
        else:
            # On an empty state rows of zeros write nothing, so a shorter sample is padded before its rows.
            packed = rows.padded_before()
            mask_BR = packed.valid_BR
            out = packed.put(inner(packed.take(hidden_BND), **given | {"attention_mask": mask_BR}))
    if step.query is None or step.query is step.alive:
        return out
    return out.masked_fill(~step.query.mask_BN[..., None], 0)


def _by_count(
    inner: Callable[..., torch.Tensor],
    rows: RowIndex,
    hidden_BND: torch.Tensor,
    number: int,
    held: str,
    given: dict[str, Any],
) -> torch.Tensor:
    """The same on states that hold something, which padding would wear away: equal counts at once."""
    assert rows.valid_BR is not None
    cache, counts = given[held], rows.valid_BR.sum(1).tolist()
    out = torch.zeros_like(hidden_BND)
    for count in sorted(set(counts) - {0}):
        samples_S = torch.tensor([b for b, one in enumerate(counts) if one == count], device=out.device)
        index_SRD = rows.index_BR[samples_S, :count, None].expand(-1, -1, hidden_BND.shape[-1])
        part = states_of(cache, number, samples_S)
        taken = hidden_BND.index_select(0, samples_S).gather(1, index_SRD)
        made = inner(taken, **given | {held: part, "attention_mask": None})
        states_back(cache, number, samples_S, part)
        spread = torch.zeros_like(hidden_BND[: len(samples_S)]).scatter(1, index_SRD, made)
        out = out.index_copy(0, samples_S, spread)
    return out
