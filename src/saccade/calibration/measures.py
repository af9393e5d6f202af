"""How far a perturbed next-token distribution is from the full one, and the order that follows (pure).

Shape letters: S samples, L layers, V vocabulary.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Literal

import torch
from torch.nn.functional import normalize

Direction = Literal["perturbed-full", "full-perturbed"]
"""``perturbed-full`` is KL(perturbed || full), what the code of ShortV and VTW computes."""


def kl(
    full_V: torch.Tensor, perturbed_LV: torch.Tensor, direction: Direction = "perturbed-full"
) -> torch.Tensor:
    """KL divergence in nats between next-token distributions, (L,).

    Logits are upcast first: in half precision the error (about 1e-3) is above the scores of most layers.

    Args:
        full_V: Logits of the full model.
        perturbed_LV: Logits of the perturbed ones.
        direction: Which distribution the mean is taken under.

    Raises:
        ValueError: If the direction is unknown.
    """
    check_direction(direction)
    full = torch.log_softmax(full_V.double().cpu(), dim=-1)
    perturbed = torch.log_softmax(perturbed_LV.double().cpu(), dim=-1)
    p, q = (perturbed, full) if direction == "perturbed-full" else (full, perturbed)
    return (p.exp() * (p - q)).sum(-1).clamp_min(0)  # a KL below 0 is rounding


def cosine_distance(full_V: torch.Tensor, perturbed_LV: torch.Tensor) -> torch.Tensor:
    """One minus the cosine similarity of logits, (L,)."""
    full_V, perturbed_LV = (normalize(logits.double().cpu(), dim=-1) for logits in (full_V, perturbed_LV))
    # Half the squared distance of unit vectors: the same, and exactly 0 of equal ones.
    return (perturbed_LV - full_V).square().sum(-1) / 2


def lead(logits_V: torch.Tensor) -> float:
    """Probability of the likeliest token less that of the second: how sure a model is of what it says."""
    top = logits_V.float().softmax(-1).topk(min(2, logits_V.shape[-1])).values
    return float(top[0] - top[-1])


def check_direction(direction: str) -> None:
    """Raises ``ValueError`` for an unknown direction."""
    if direction not in ("perturbed-full", "full-perturbed"):
        raise ValueError(f"direction is perturbed-full or full-perturbed, got {direction!r}")


def check_answer_tokens(tokens: int) -> None:
    """Raises ``ValueError`` for a number of tokens below 1."""
    if tokens < 1:
        raise ValueError(f"a score looks at 1 token of the answer or more, got {tokens}")


def mean_sd(values_SL: Sequence[Sequence[float]]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation (of a sample, n - 1) of every layer; 0 for the spread of one value."""
    n = len(values_SL)
    columns = list(zip(*values_SL, strict=True))
    means = [math.fsum(column) / n for column in columns]
    spread = [
        math.sqrt(math.fsum((x - mean) ** 2 for x in column) / (n - 1)) if n > 1 else 0.0
        for column, mean in zip(columns, means, strict=True)
    ]
    return means, spread


def ascending(scores_L: Sequence[float]) -> tuple[int, ...]:
    """Layers from the least to the most harmful; of equal scores the deeper layer comes first."""
    return tuple(sorted(range(len(scores_L)), key=lambda layer: (scores_L[layer], -layer)))


def first_below(scores_L: Sequence[float], eta: float) -> int:
    """VTW's rule: the smallest K whose score is at most ``eta``; L (nothing withdrawn) if there is none."""
    return next((layer for layer, score in enumerate(scores_L) if score <= eta), len(scores_L))


def shuffled(num_layers: int, seed: int) -> tuple[int, ...]:
    """The baseline of every order: a seeded permutation of the layers."""
    order = list(range(num_layers))
    random.Random(seed).shuffle(order)
    return tuple(order)
