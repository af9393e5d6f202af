"""Skip-Vision's token merge: the rows least like all others stay, each other row joins its most similar one.

And mean pooling, its plain rival.

Shape letters: B batch, N rows, K rows that stay, R rows that join others, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from saccade.core.precision import exact, unit, wide

Order = Literal["similarity", "raster"]
Rule = Literal["similarity", "mean"]
"""What merges: rows that are alike, or neighbours."""


@dataclass(frozen=True, eq=False)
class Merged:
    """What a merge made.

    Attributes:
        rows_BKD: Means of the clusters.
        homes_BK: The row that each cluster grew around.
        sizes_BK: Rows in each cluster.
        weights_BKN: Weight of every row in every mean; each line adds up to 1.
    """

    rows_BKD: torch.Tensor
    homes_BK: torch.Tensor
    sizes_BK: torch.Tensor
    weights_BKN: torch.Tensor


def token_merge(x_BND: torch.Tensor, keep: int, order: Order = "similarity") -> Merged:
    """Merges rows by cosine similarity, once, without parameters (Skip-Vision, arXiv 2503.21817).

    Rows are ranked by their total similarity to all others. The ``keep`` least similar ones stay; every other
    row joins the one of these that it is most like, and each cluster becomes the plain mean of its raw
    members, so that the sum of cluster sizes times means is the sum of all rows. The choice takes no
    gradient, the means do. Similarities are float32 at least, under autocast too, and ties go by position, so
    results are repeatable.

    Args:
        x_BND: Rows.
        keep: How many stay; with ``keep = N`` the rows are returned as they are.
        order: Order of the result: from the most to the least similar one, as the authors' code has it, or
            by place.

    Raises:
        ValueError: If fewer than one row or more than all are to stay.
    """
    if not 1 <= keep <= x_BND.shape[1]:
        raise ValueError(f"token merge keeps 1 to all of {x_BND.shape[1]} rows, got {keep}")
    with exact(x_BND):
        return _merged(x_BND, keep, order)


def _merged(x_BND: torch.Tensor, keep: int, order: Order) -> Merged:
    batch, rows, _ = x_BND.shape
    with torch.no_grad():
        if keep == rows:
            weights = torch.eye(rows, dtype=x_BND.dtype, device=x_BND.device).expand(batch, -1, -1)
            homes = torch.arange(rows, device=x_BND.device).expand(batch, -1)
            return Merged(x_BND, homes, torch.ones_like(homes), weights)
        unit_BND = unit(x_BND)
        # The sum over all pairs of a row is one product with the sum of all rows.
        total_BN = (unit_BND @ unit_BND.sum(1, keepdim=True).mT)[..., 0]
        total_BN = total_BN - unit_BND.square().sum(-1)
        ranked_BN = torch.argsort(total_BN, dim=1, descending=True, stable=True)
        join_BR, homes_BK = ranked_BN[:, : rows - keep], ranked_BN[:, rows - keep :]
        if order == "raster":
            homes_BK = homes_BK.sort(dim=1).values
        near_BRK = _take(unit_BND, join_BR) @ _take(unit_BND, homes_BK).mT
        into_BR = near_BRK.argmax(2)
        member_BKN = torch.zeros(batch, keep, rows, dtype=torch.bool, device=x_BND.device)
        member_BKN.scatter_(2, homes_BK[..., None], True)
        cluster_BN = torch.full((batch, rows), keep, device=x_BND.device).scatter(1, join_BR, into_BR)
        member_BKN |= cluster_BN[:, None, :] == torch.arange(keep, device=x_BND.device)[None, :, None]
        sizes_BK = member_BKN.sum(2)
        weights_BKN = member_BKN.to(unit_BND.dtype) / sizes_BK[..., None]
    merged_BKD = (weights_BKN @ wide(x_BND)).to(x_BND.dtype)
    return Merged(merged_BKD, homes_BK, sizes_BK, weights_BKN.to(x_BND.dtype))


def mean_merge(x_BND: torch.Tensor, keep: int) -> Merged:
    """Means of runs of neighbouring rows, each around its middle row: the plain rival of the merge.

    Where ``keep`` does not divide the rows, neighbouring runs overlap by a row. In Chain-of-Sight's order a
    run of as many rows as a window has is that window's mean.

    Args:
        x_BND: Rows.
        keep: How many means; with ``keep = N`` the rows are returned as they are.

    Raises:
        ValueError: If fewer than one row or more than all are to stay.
    """
    batch, rows, _ = x_BND.shape
    if not 1 <= keep <= rows:
        raise ValueError(f"mean pooling keeps 1 to all of {rows} rows, got {keep}")
    run_K = torch.arange(keep, device=x_BND.device)
    start_K, stop_K = run_K * rows // keep, -(-(run_K + 1) * rows // keep)
    place_N = torch.arange(rows, device=x_BND.device)
    member_KN = (place_N >= start_K[:, None]) & (place_N < stop_K[:, None])
    sizes_K = stop_K - start_K
    weights_KN = member_KN.to(wide(x_BND[:0]).dtype) / sizes_K[:, None]
    weights_BKN = weights_KN.to(x_BND.dtype).expand(batch, -1, -1)
    if rows % keep == 0:
        means_BKD = wide(x_BND).unflatten(1, (keep, rows // keep)).mean(2)
    else:
        means_BKD = torch.nn.functional.adaptive_avg_pool1d(wide(x_BND).mT, keep).mT
    homes_K = (2 * run_K + 1) * rows // (2 * keep)
    return Merged(
        means_BKD.to(x_BND.dtype), homes_K.expand(batch, -1), sizes_K.expand(batch, -1), weights_BKN
    )


def _take(x_BND: torch.Tensor, index_BK: torch.Tensor) -> torch.Tensor:
    return x_BND.gather(1, index_BK[..., None].expand(-1, -1, x_BND.shape[-1]))
