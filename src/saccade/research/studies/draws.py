"""How much a calibration hangs on the samples it happens to draw (pure)."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import torch

from saccade.calibration.drawing import Draw
from saccade.research.gate import rank_correlation
from saccade.research.studies.bench import StudyScores

DRAWS = 10
"""Draws of each kind."""
ONE_DRAW = (
    "Layers are of one draw of calibration samples; intervals do not include the draw (study stratified)."
)
"""What findings on plans of one calibration say of their limits."""


def drawn(pool: StudyScores, size: int, how: Draw, seed: int, draws: int = DRAWS) -> list[StudyScores]:
    """Several calibrations of one pool; their seeds are ``seed``, ``seed + 1`` and so on."""
    return [pool.drawn(min(size, len(pool.samples)), how, seed + number) for number in range(draws)]


def spread(pool: StudyScores, found: Sequence[StudyScores], budget: int) -> dict[str, Any]:
    """What draws have in common with the whole pool and with one another.

    Args:
        pool: Scores on the whole pool.
        found: Scores of the draws.
        budget: Layers that a plan takes.

    Returns:
        Per layer the mean over draws and the 2.5 % and 97.5 % quantiles of a draw's score; mean rank
        correlation of a draw's order with that of the pool; how many of the pool's layers a draw takes, mean
        and least; how many different sets there are.
    """
    values_DL = torch.tensor([one.mean for one in found], dtype=torch.float64)
    whole_L = torch.tensor(pool.mean, dtype=torch.float64)
    best = set(pool.order[:budget])
    shared = [len(best & set(one.order[:budget])) for one in found]
    low_L, high_L = (values_DL.quantile(q, dim=0).tolist() for q in (0.025, 0.975))
    return {
        "draws": len(found),
        "mean": values_DL.mean(0).tolist(),
        "low": low_L,
        "high": high_L,
        "pool": pool.mean,
        "rank_correlation": statistics.fmean(
            rank_correlation(torch.tensor(one.mean, dtype=torch.float64), whole_L) for one in found
        ),
        "layers": budget,
        "shared": statistics.fmean(shared),
        "least_shared": min(shared),
        "sets": len({frozenset(one.order[:budget]) for one in found}),
    }
