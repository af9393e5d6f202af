"""How far merged rows are from what they stand for, beside eq. 31's similarity error and bounds that hold.

Shape letters: N rows before the merge, K rows made, D width, P pairs of a row and what it went into.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from saccade.research.analysis import bounds
from saccade.research.analysis.checks import Check

ROUNDING = 1e-7
"""Share of a row's norm that its distance to a parallel row may be off by, worked out from their cosine."""


@dataclass(frozen=True, eq=False)
class Merge:
    """Rows before a merge, and what was made of them.

    Attributes:
        rows_ND: Rows before.
        made_KD: Rows made.
        weights_KN: Weight of every row in every row made.
        homes_K: The row that each row made grew around.
    """

    rows_ND: torch.Tensor
    made_KD: torch.Tensor
    weights_KN: torch.Tensor
    homes_K: torch.Tensor


@dataclass(frozen=True)
class Similarity:
    """The similarity error of a merge: of one row and the row that it joined, or what they became.

    Attributes:
        rows: Rows that went into a row made of several.
        least: Smallest cosine of a row and the one that it joined.
        distance: Mean distance of a row from what it became, over the row's norm.
        joined: What the printed ``sqrt(1 - cosine)`` says of the distance of a row from the one that it
            joined, and what was measured: of the row where least is left between the two.
        exact: The same by ``eps_sim``, which knows the norms.
        became: What the weighted mean of ``eps_sim`` over a cluster says of the distance of a row from what
            it became, and what was measured, likewise.
        rounding: How much of each may be rounding.
    """

    rows: int
    least: float
    distance: float
    joined: tuple[float, float]
    exact: tuple[float, float]
    became: tuple[float, float]
    rounding: tuple[float, float, float]

    def checks(self) -> list[Check]:
        """Every bound beside what was measured."""
        found = (self.joined, self.exact, self.became)
        names = ("similarity_paper", "similarity_joined", "similarity_became")
        return [
            Check(name, None, *pair, slack)
            for name, pair, slack in zip(names, found, self.rounding, strict=True)
        ]


def similarity(merge: Merge) -> Similarity | None:
    """Measures a merge; None where no row was merged with another.

    A row ``x`` became ``y``, the sum of ``w_j x_j`` over its cluster. By the triangle inequality ``|x - y|``
    is at most the sum of ``w_j eps_sim(x, x_j)``, and ``|1 - sum w_j| |x|`` more where the weights do not add
    up to 1.
    """
    x_ND, weights_KN = merge.rows_ND.detach().double().cpu(), merge.weights_KN.detach().double().cpu()
    homes_K, made_KD = merge.homes_K.cpu(), merge.made_KD.detach().double().cpu()
    member_KN = weights_KN != 0
    member_KN &= (member_KN.sum(1) > 1)[:, None]
    cluster_P, row_P = member_KN.nonzero(as_tuple=True)
    if not len(row_P):
        return None
    home_P = homes_K[cluster_P]
    norm_N = x_ND.norm(dim=1)
    unit_ND = x_ND / norm_N.clamp_min(torch.finfo(torch.float64).tiny)[:, None]
    cosine_NN = (unit_ND @ unit_ND.mT).clamp(-1, 1)
    apart_NN = _apart(cosine_NN, norm_N)
    missing_P = (1 - weights_KN.sum(1)).abs()[cluster_P] * norm_N[row_P]
    became_P = (x_ND[row_P] - made_KD[cluster_P]).norm(dim=1)
    bound_P = (apart_NN @ weights_KN.abs().mT)[row_P, cluster_P] + missing_P
    others = row_P != home_P
    joins, into = row_P[others], home_P[others]
    joined = (x_ND[joins] - x_ND[into]).norm(dim=1)
    theta = cosine_NN[joins, into]
    exact = ROUNDING * float(norm_N.max())
    made = torch.finfo(merge.made_KD.dtype).eps * float(made_KD.norm(dim=1).max())
    return Similarity(
        rows=len(row_P),
        least=float(theta.min()) if len(theta) else 1.0,
        distance=float((became_P / norm_N[row_P].clamp_min(torch.finfo(torch.float64).tiny)).mean()),
        joined=_tightest((1 - theta).clamp_min(0).sqrt(), joined),
        exact=_tightest(apart_NN[joins, into], joined),
        became=_tightest(bound_P, became_P),
        rounding=(exact, exact, exact + made),
    )


def kl_checks(
    found: Sequence[Similarity], drift: float, variance: float, change: float, kl: float
) -> list[Check]:
    """Eq. 31 beside the KL of the next token, to a forward that neither skips nor merges.

    Args:
        found: The merges.
        drift: What eq. 18 says of the skipping, as printed.
        variance: Variance of the logits of that forward.
        change: Norm of the difference of the logits.
        kl: What was measured, in nats.
    """
    worst = math.sqrt(max(1 - one.least for one in found))
    return [
        Check("kl_merge_paper", None, bounds.kl_bound(drift + worst, "paper", variance), kl),
        Check("kl_merge_l2", None, bounds.kl_bound(change), kl),
    ]


def _apart(cosine_NN: torch.Tensor, norm_N: torch.Tensor) -> torch.Tensor:
    """``bounds.eps_sim`` of all pairs."""
    product_NN = norm_N[:, None] * norm_N
    square_NN = (norm_N[:, None] - norm_N).square() + 2 * product_NN * (1 - cosine_NN)
    return square_NN.clamp_min(0).sqrt()


def _tightest(bound_P: torch.Tensor, measured_P: torch.Tensor) -> tuple[float, float]:
    """The pair of which least is left between bound and measurement: where it holds, all hold."""
    if not len(bound_P):
        return 0.0, 0.0
    ratio_P = torch.where(measured_P > 0, bound_P / measured_P, torch.inf)
    worst = int(ratio_P.argmin())
    return float(bound_P[worst]), float(measured_P[worst])
