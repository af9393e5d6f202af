"""Where visual rows look, layer by layer, and how little that changes: saturation.

Visual-to-visual attention is the part of a visual row's attention that goes to visual rows. It is saturated
where the map hardly changes from one layer to the next, or where leaving it out (VIG) changes the answer
little.

Shape letters: H heads, Q asking rows, N answering rows, V visual rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from saccade.calibration.probes import find_probe
from saccade.calibration.run import trying
from saccade.families import Family
from saccade.research.analysis.attention import layer_heads
from saccade.research.analysis.capture import Trajectory

MASSES = {
    "visual_to_visual": "of a visual row's attention, to visual rows",
    "visual_to_self": "of a visual row's attention, to itself",
    "text_to_visual": "of a later text row's attention, to visual rows",
    "last_to_visual": "of the last row's attention, to visual rows",
}
"""Shares of attention that are measured, mean over heads and asking rows."""


@dataclass(frozen=True, eq=False)
class VisualMap:
    """Attention among the visual rows of one layer, mean over heads, on the host.

    Attributes:
        rows_V: Numbers of the rows.
        weights_VV: Attention of each (first axis) to each; rows add up to the visual-to-visual mass.
        received_V: Attention that each gets from the last row of the prompt.
    """

    rows_V: torch.Tensor
    weights_VV: torch.Tensor
    received_V: torch.Tensor


def read_map(
    weights_HQN: torch.Tensor, rows_N: torch.Tensor, asks_Q: torch.Tensor, visual_N: torch.Tensor
) -> tuple[dict[str, float | None], VisualMap | None]:
    """Shares of attention, and the map among visual rows, of one layer.

    Args:
        weights_HQN: The attention map.
        rows_N: Number of each answering row.
        asks_Q: Which of the answering rows ask.
        visual_N: Boolean, whether an answering row is visual.

    Returns:
        Every share of ``MASSES`` (None where nobody asks), and the map (None where no visual row asks).
    """
    mean_QN = weights_HQN.mean(0).cpu()
    asks_Q = asks_Q.cpu()
    after_N = ~visual_N & (visual_N.cumsum(0) > 0)
    to_visual_Q = mean_QN[:, visual_N].sum(-1)
    own_Q = mean_QN.gather(1, asks_Q[:, None])[:, 0]
    sees_Q, text_Q = visual_N[asks_Q], after_N[asks_Q]
    last_Q = asks_Q == len(rows_N) - 1

    def mean(values: torch.Tensor) -> float | None:
        return float(values.double().mean()) if values.numel() else None

    masses = {
        "visual_to_visual": mean(to_visual_Q[sees_Q]),
        "visual_to_self": mean(own_Q[sees_Q]),
        "text_to_visual": mean(to_visual_Q[text_Q]),
        "last_to_visual": mean(to_visual_Q[last_Q]),
    }
    if not bool(sees_Q.any()):
        return masses, None
    asking_N = torch.zeros(len(rows_N), dtype=torch.bool)
    asking_N[asks_Q] = True
    both_N = asking_N & visual_N
    weights_VV = mean_QN[sees_Q][:, both_N]
    return masses, VisualMap(rows_N[both_N], weights_VV, mean_QN[last_Q][:, both_N].sum(0))


def map_change(before: VisualMap, after: VisualMap) -> float | None:
    """How much the attention among visual rows changes between two layers.

    Over the rows that both have, each row's attention is made to add up to 1, and the total variation
    distance is taken, mean over rows. A row that sees only itself is left out: it cannot change.

    Returns:
        Between 0 (the same) and 1 (nothing in common); None where fewer than two rows are in both.
    """
    shared = before.rows_V[torch.isin(before.rows_V, after.rows_V)]
    if len(shared) < 2:
        return None
    found = []
    for one in (before, after):
        take = torch.isin(one.rows_V, shared)
        weights = one.weights_VV[take][:, take].double()
        found.append(weights / weights.sum(-1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny))
    return float((found[0] - found[1]).abs().sum(-1)[1:].mean() / 2)


@torch.no_grad()
def visual_maps(
    family: Family, layers: nn.ModuleList, run: Trajectory
) -> tuple[dict[str, list[float | None]], list[VisualMap | None]]:
    """Shares of attention in every layer of a forward, how the map changes, and the maps.

    Returns:
        Per layer: every share of ``MASSES``, and ``change`` from the layer before (None in the first); and
        the map of every layer.
    """
    series: dict[str, list[float | None]] = {name: [] for name in (*MASSES, "change")}
    maps: list[VisualMap | None] = []
    for number, layer in enumerate(layers):
        found, rows_N = layer_heads(family, layer, run, number)
        masses, seen = read_map(found.weights(), rows_N, found.asks_Q, run.layout.visual_BN[0, rows_N])
        for name, share in masses.items():
            series[name].append(share)
        last = maps[-1] if maps else None
        series["change"].append(None if last is None or seen is None else map_change(last, seen))
        maps.append(seen)
    return series, maps


def vig(model: nn.Module, inputs: Mapping[str, Any]) -> list[float]:
    """VIG of every layer on one prompt: KL of the next token when visual rows skip that layer's attention."""
    with trying(model) as try_layers:
        return list(try_layers(inputs, find_probe("vig"), "perturbed-full").values)
