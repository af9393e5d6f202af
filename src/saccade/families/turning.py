"""How rows by head turn to their positions (pure).

Shape letters: B batch, N rows, H heads, K head width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

Rotary = tuple[torch.Tensor, ...]
"""Cosines and sines, each (B or 1, N, K), as the stock loop hands them to its layers, or as ``Family.tables``
makes them of what it does; what else a layer's queries need of where a row stands comes behind them."""


def rotate(x_BHNK: torch.Tensor, rotary: Rotary) -> torch.Tensor:
    """Rows turned to their positions; what is past the width of the tables stays."""
    return _turned(x_BHNK, rotary, _halves)


def rotate_pairs(x_BHNK: torch.Tensor, rotary: Rotary) -> torch.Tensor:
    """The same where each number turns with its neighbour."""
    return _turned(x_BHNK, rotary, _neighbours)


def _turned(
    x_BHNK: torch.Tensor, rotary: Rotary, across: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    cos, sin = (part.unsqueeze(1) for part in rotary[:2])
    turned, rest = x_BHNK[..., : cos.shape[-1]], x_BHNK[..., cos.shape[-1] :]
    turned = turned * cos + across(turned) * sin
    return torch.cat((turned, rest), dim=-1) if rest.shape[-1] else turned


def _halves(x_BHNK: torch.Tensor) -> torch.Tensor:
    low, high = x_BHNK.chunk(2, dim=-1)
    return torch.cat((-high, low), dim=-1)


def _neighbours(x_BHNK: torch.Tensor) -> torch.Tensor:
    return torch.stack((-x_BHNK[..., 1::2], x_BHNK[..., 0::2]), dim=-1).flatten(-2)
