"""Attention maps from queries and keys, one layer of one prompt at a time: for analysis, never for serving.

Shape letters: N rows that answer, Q rows that ask, H heads, G key/value heads, W head width, D hidden width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from saccade.core.precision import wide
from saccade.families import Family, Rotary
from saccade.research.analysis.capture import Trajectory


@dataclass(frozen=True, eq=False)
class Heads:
    """Queries, keys and values of one layer, rotated, in float32 at least.

    Attributes:
        queries_HQW: Of the rows that ask.
        keys_GNW: Of the rows that answer.
        values_GNW: Likewise.
        asks_Q: Which of the answering rows ask, by number.
        seen_QN: Which rows each of them sees.
        scale: What scores are multiplied by.
        capped: What the model makes of scaled scores before it hides any.
    """

    queries_HQW: torch.Tensor
    keys_GNW: torch.Tensor
    values_GNW: torch.Tensor
    asks_Q: torch.Tensor
    seen_QN: torch.Tensor
    scale: float
    capped: Callable[[torch.Tensor], torch.Tensor]

    @property
    def groups(self) -> int:
        """Query heads to one key head."""
        return len(self.queries_HQW) // len(self.keys_GNW)

    def weights(self) -> torch.Tensor:
        """The attention map (H, Q, N)."""
        keys_HNW = self.keys_GNW.repeat_interleave(self.groups, dim=0)
        scores_HQN = self.capped(self.queries_HQW * self.scale @ keys_HNW.mT)
        return scores_HQN.masked_fill(~self.seen_QN, float("-inf")).softmax(-1)


def heads(
    family: Family,
    attn: Any,
    normed_ND: torch.Tensor,
    rotary: Rotary,
    seen_NN: torch.Tensor,
    asks_Q: torch.Tensor | None = None,
) -> Heads:
    """What an attention module makes of normed states, in the rows' order.

    Args:
        family: Adapter that takes the module apart.
        attn: The stock attention module.
        normed_ND: States after the input norm, of the rows that answer.
        rotary: Rotary tables of those rows.
        seen_NN: Which of them each of them sees.
        asks_Q: Which of them ask; all if omitted.
    """
    if asks_Q is None:
        asks_Q = torch.arange(len(normed_ND), device=normed_ND.device)
    keys, values = family.keys_values(attn, normed_ND[None], rotary)
    turned = tuple(part[:, asks_Q] for part in rotary)
    queries = family.queries(attn, normed_ND[None, asks_Q], turned)
    return Heads(
        wide(queries[0]),
        wide(keys[0]),
        wide(values[0]),
        asks_Q,
        seen_NN[asks_Q],
        float(attn.scaling),
        partial(family.capped, attn),
    )


def mixed(
    family: Family, attn: Any, normed_ND: torch.Tensor, rotary: Rotary, seen_NN: torch.Tensor
) -> torch.Tensor:
    """What the heads mix (H, N, W) of normed states, before the output projection; differentiable."""
    found = heads(family, attn, normed_ND, rotary, seen_NN)
    values_HNW = found.values_GNW.repeat_interleave(found.groups, dim=0)
    return found.weights() @ values_HNW


def attention(
    family: Family, attn: Any, normed_ND: torch.Tensor, rotary: Rotary, seen_NN: torch.Tensor
) -> torch.Tensor:
    """Attention output (N, D) of normed states, all rows asking; differentiable."""
    mixed_HNW = mixed(family, attn, normed_ND, rotary, seen_NN)
    gate = family.asking(attn, normed_ND[None], rotary)[1]
    return family.output(attn, mixed_HNW[None].to(normed_ND.dtype), gate)[0]


def layer_heads(family: Family, layer: Any, run: Trajectory, number: int) -> tuple[Heads, torch.Tensor]:
    """Queries, keys and values of the rows that a layer of a forward works on.

    Returns:
        The heads, and the numbers (N,) of the rows that answer, on the host.
    """
    run.check_positions()
    if family.recurs(layer):
        raise ValueError(
            f"layer {number} of this {family.name} model is recurrent, so it has no attention to analyse: "
            "leave attention out of --what"
        )
    rows = run.rows(number)
    if run.layer(number).visibility != "causal":
        raise ValueError(
            "attention is analysed where every row sees what the model lets it see: leave out reading=mask"
        )
    asks = run.layer(number).query_BN[0, rows].nonzero()[:, 0]
    normed_ND, rotary = normed(family, layer, run, number, rows)
    here = normed_ND.device
    seen_NN = run.seen(number).to(here)
    return heads(family, layer.self_attn, normed_ND, rotary, seen_NN, asks.to(here)), rows


def normed(
    family: Family, layer: Any, run: Trajectory, number: int, rows: torch.Tensor
) -> tuple[torch.Tensor, Rotary]:
    """What the attention of a layer gets of some rows, and their rotary tables."""
    state_ND = run.states[number]
    here = rows.to(state_ND.device)
    tables = tuple(part[:, here] for part in run.rotary[number])
    return family.input_norm(layer, state_ND[None, here])[0], tables
