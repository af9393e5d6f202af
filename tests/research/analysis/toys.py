"""Attention and FFN written out plainly, and their true Lipschitz constants by brute force, in float64.

Shape letters: N rows, D width, K head width, M inner width.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch


def norm2(matrix: torch.Tensor) -> float:
    """Spectral norm by a full decomposition."""
    return float(torch.linalg.matrix_norm(matrix, 2))


def local_constant(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> float:
    """Norm of the whole Jacobian."""
    jacobian = torch.autograd.functional.jacobian(function, x)
    return norm2(jacobian.reshape(-1, x.numel()))


def turn(x_NK: torch.Tensor) -> torch.Tensor:
    """Rotary positions: every row turned by its own angles."""
    half = x_NK.shape[1] // 2
    angle = torch.arange(len(x_NK))[:, None] / 10.0 ** torch.arange(half)
    low, high = x_NK[:, :half], x_NK[:, half:]
    return torch.cat((low * angle.cos() - high * angle.sin(), high * angle.cos() + low * angle.sin()), dim=1)


def attention_map(
    x_ND: torch.Tensor, query_DK: torch.Tensor, key_DK: torch.Tensor, causal: bool, rope: bool
) -> torch.Tensor:
    """Softmax of scaled scores."""
    query, key = x_ND @ query_DK, x_ND @ key_DK
    if rope:
        query, key = turn(query), turn(key)
    scores = query @ key.mT / math.sqrt(query.shape[1])
    if causal:
        scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), float("-inf"))
    return scores.softmax(-1)


def head(
    query_DK: torch.Tensor,
    key_DK: torch.Tensor,
    value_DK: torch.Tensor,
    causal: bool = False,
    rope: bool = False,
) -> Callable[[torch.Tensor], torch.Tensor]:
    """One attention head as a function of states (N, D)."""

    def run(x_ND: torch.Tensor) -> torch.Tensor:
        return attention_map(x_ND, query_DK, key_DK, causal, rope) @ (x_ND @ value_DK)

    return run


def swiglu(gate_MD: torch.Tensor, up_MD: torch.Tensor, down_DM: torch.Tensor):
    """A gated FFN as a function of rows (N, D)."""

    def run(x_ND: torch.Tensor) -> torch.Tensor:
        return (torch.nn.functional.silu(x_ND @ gate_MD.mT) * (x_ND @ up_MD.mT)) @ down_DM.mT

    return run


def draw(seed: int, *shapes: tuple[int, ...]) -> list[torch.Tensor]:
    """Gaussian float64 tensors."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes]
