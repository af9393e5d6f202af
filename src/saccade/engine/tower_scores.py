"""Attention that patches get in one layer of the vision tower, from the few rows that are needed.

Shape letters: T views, H heads, Q asking rows, P rows of a view, K head width, V tower width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from saccade.core.precision import exact, wide

CHUNK = 1 << 22
"""Attention weights held at once; a full map over all heads never is."""


@dataclass(frozen=True, eq=False)
class TowerScores:
    """What was looked at in one layer; tuples have one entry per size of views.

    Attributes:
        heads: Its heads.
        attention: Attention that every row gets (T, P), mean over heads, in float32 at least: from the CLS
            row, or where there is none from every row of its view, summed over the rows that ask.
        single: The same with all heads as one of full width.
        keys: Keys (T, P, V), heads side by side.
    """

    heads: int
    attention: tuple[torch.Tensor, ...]
    single: tuple[torch.Tensor, ...]
    keys: tuple[torch.Tensor, ...]

    def map(
        self, add: Callable[[torch.Tensor], torch.Tensor], mean: Callable[[torch.Tensor], torch.Tensor]
    ) -> TowerScores:
        """The same of other rows: attention (T, P, 1) adds up over what they stand for, keys are averaged."""
        attention, single = (
            tuple(add(x[..., None])[..., 0] for x in part) for part in (self.attention, self.single)
        )
        return TowerScores(self.heads, attention, single, tuple(mean(x) for x in self.keys))


def look(
    heads: list[tuple[torch.Tensor, torch.Tensor]], cls_only: bool, bias_T11P: torch.Tensor | None = None
) -> TowerScores:
    """Scores from queries (T, H, Q, K) and keys (T, H, P, K).

    Args:
        heads: Queries and keys, views of one size together.
        cls_only: Whether only the first row of every view asks.
        bias_T11P: What the layer adds to its attention logits.
    """
    attention = tuple(received(q[:, :, :1] if cls_only else q, k, bias_T11P) for q, k in heads)
    keys = tuple(_side_by_side(k)[:, 0] for _, k in heads)
    single = together(heads, cls_only, bias_T11P)
    return TowerScores(heads[0][1].shape[1] if heads else 1, attention, single, keys)


def together(
    heads: list[tuple[torch.Tensor, torch.Tensor]], cls_only: bool, bias_T11P: torch.Tensor | None = None
) -> tuple[torch.Tensor, ...]:
    """The attention of ``look`` with all heads as one of full width; differentiable."""
    return tuple(
        received(_side_by_side(q[:, :, :1] if cls_only else q), _side_by_side(k), bias_T11P) for q, k in heads
    )


def received(
    q_THQK: torch.Tensor, k_THPK: torch.Tensor, bias_T11P: torch.Tensor | None = None
) -> torch.Tensor:
    """Attention (T, P) that each row gets: mean over heads, summed over the rows that ask."""
    k_THPK = wide(k_THPK) * k_THPK.shape[-1] ** -0.5
    views, heads, rows, _ = k_THPK.shape
    step = max(CHUNK // max(views * heads * rows, 1), 1)
    total_TP = k_THPK.new_zeros(views, rows)
    with exact(k_THPK):
        for q in q_THQK.split(step, dim=2):
            logits = wide(q) @ k_THPK.transpose(2, 3)
            if bias_T11P is not None:
                logits = logits + bias_T11P
            total_TP = total_TP + logits.softmax(-1).mean(1).sum(1)
    return total_TP


def _side_by_side(x_THPK: torch.Tensor) -> torch.Tensor:
    return x_THPK.transpose(1, 2).flatten(2)[:, None]
