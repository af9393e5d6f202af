"""Bipartite soft matching: which tokens of a vision tower merge, and what they make (pure).

From ToMe (Token Merging, arXiv 2210.09461, section 3).

Shape letters: T views, N tokens, A and B the two halves, U tokens of A that stay, R that merge, C features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from saccade.core.precision import exact, unit, wide
from saccade.core.tower import merged_away


@dataclass(frozen=True)
class TowerMerge:
    """Tokens merge in every layer of the vision tower up to the one that makes the features.

    Attributes:
        r: Tokens that disappear per layer and view; at most half of the unprotected ones.
        spread: Whether every patch is put back then, with what its token holds, so that rows of the decoder
            are made of as many patches as ever.
    """

    r: int
    spread: bool = False


@dataclass(frozen=True, eq=False)
class Pairs:
    """A matching: every second token, from the first, is in A, the others in B; some of A merge into B.

    The tokens after it are those of A that stay, in order, then B (step 5 of the paper joins the two sets).

    Attributes:
        stay_TU: Places in A of the tokens that stay.
        go_TR: Places in A of the tokens that merge.
        target_TR: Places in B that they merge into.
        into_TN: New number of every token.
    """

    stay_TU: torch.Tensor
    go_TR: torch.Tensor
    target_TR: torch.Tensor
    into_TN: torch.Tensor


def match(metric_TNC: torch.Tensor, r: int, protected: int) -> Pairs | None:
    """Matches the ``r`` pairs of most similar tokens; None where there is nothing to merge.

    Args:
        metric_TNC: What is compared, by cosine: the keys of the layer, mean over heads.
        r: Tokens to merge; at most half of the unprotected ones.
        protected: Leading tokens that never merge, 0 or 1 (the CLS token).
    """
    tokens = metric_TNC.shape[1]
    r = merged_away(tokens, r, protected)
    if r <= 0:
        return None
    metric_TNC = unit(metric_TNC)
    with exact(metric_TNC):
        scores_TAB = metric_TNC[:, ::2] @ metric_TNC[:, 1::2].transpose(1, 2)
    best_TA, target_TA = scores_TAB.max(-1)
    best_TA[:, :protected] = -torch.inf
    # Equal similarities are taken in the order of the tokens.
    order_TA = best_TA.argsort(dim=1, descending=True, stable=True)
    go_TR, stay_TU = order_TA[:, :r], order_TA[:, r:].sort(dim=1).values
    target_TR = target_TA.gather(1, go_TR)
    views, kept = len(stay_TU), stay_TU.shape[1]
    into_TA = torch.empty_like(order_TA)
    into_TA.scatter_(1, stay_TU, torch.arange(kept, device=order_TA.device).expand(views, -1))
    into_TA.scatter_(1, go_TR, kept + target_TR)
    into_TN = torch.empty((views, tokens), dtype=torch.long, device=order_TA.device)
    into_TN[:, ::2] = into_TA
    into_TN[:, 1::2] = kept + torch.arange(tokens // 2, device=order_TA.device)
    return Pairs(stay_TU, go_TR, target_TR, into_TN)


def add(x_TNC: torch.Tensor, pairs: Pairs) -> torch.Tensor:
    """Sums over the tokens that merge; the others as they are."""
    a_TAC, b_TBC = x_TNC[:, ::2], x_TNC[:, 1::2]
    stay, go = (_take(a_TAC, at) for at in (pairs.stay_TU, pairs.go_TR))
    # A product with ones adds in a fixed order, which a scatter on a GPU does not.
    into_TRB = F.one_hot(pairs.target_TR, b_TBC.shape[1]).to(x_TNC.dtype)
    with exact(x_TNC):
        return torch.cat((stay, b_TBC + into_TRB.transpose(1, 2) @ go), dim=1)


def merge(x_TNC: torch.Tensor, sizes_TN: torch.Tensor, pairs: Pairs) -> tuple[torch.Tensor, torch.Tensor]:
    """Averages of the tokens that merge, weighted by what was merged into each before, and the new sizes."""
    sizes_TN1 = add(sizes_TN[..., None], pairs)
    mean_TNC = add(wide(x_TNC) * sizes_TN[..., None], pairs) / sizes_TN1
    return mean_TNC.to(x_TNC.dtype), sizes_TN1[..., 0]


def _take(x_TNC: torch.Tensor, at_TM: torch.Tensor) -> torch.Tensor:
    return x_TNC.gather(1, at_TM[..., None].expand(-1, -1, x_TNC.shape[-1]))
