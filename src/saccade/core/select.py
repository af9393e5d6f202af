"""Choosing rows by score, image by image, without asking the device how many (pure).

Shape letters: B batch, N rows, I images of a sample.
"""

from __future__ import annotations

import torch

from saccade.core.stages import Counts


def per_row(counts: Counts, image_BN: torch.Tensor) -> torch.Tensor:
    """Each row's count: that of its image, 0 where it has none; (B, N) on the rows' device."""
    widest = max((len(sample) for sample in counts), default=0)
    table = torch.tensor([[*sample, *[0] * (widest + 1 - len(sample))] for sample in counts])
    # Rows of no image (-1) read the last column, which is 0 for every sample.
    return table.to(image_BN.device, non_blocking=True).gather(1, image_BN.remainder(widest + 1))


def ranks(scores_BN: torch.Tensor, candidates_BN: torch.Tensor, image_BN: torch.Tensor) -> torch.Tensor:
    """Place of every candidate among those of its image, 0 for the highest score; N at other rows.

    Equal scores are ranked by position, so that the result is the same on every run and device.

    Args:
        scores_BN: Scores; what they are at other rows does not matter.
        candidates_BN: Boolean, the rows to rank.
        image_BN: Image of each row inside its sample, -1 elsewhere.
    """
    rows = scores_BN.shape[1]
    lowest = torch.finfo(scores_BN.dtype).min
    # NaN scores come last, not first.
    scores_BN = scores_BN.nan_to_num(nan=lowest, neginf=lowest).masked_fill(~candidates_BN, lowest)
    by_score = scores_BN.argsort(dim=1, descending=True, stable=True)
    group = image_BN.masked_fill(~candidates_BN, rows)
    order = by_score.gather(1, group.gather(1, by_score).argsort(dim=1, stable=True))
    sorted_group = group.gather(1, order)
    at = torch.arange(rows, device=scores_BN.device).expand_as(order)
    starts = torch.ones_like(sorted_group, dtype=torch.bool)
    starts[:, 1:] = sorted_group[:, 1:] != sorted_group[:, :-1]
    first = torch.where(starts, at, 0).cummax(dim=1).values
    return torch.empty_like(order).scatter_(1, order, at - first).masked_fill(~candidates_BN, rows)


def top(
    scores_BN: torch.Tensor, candidates_BN: torch.Tensor, image_BN: torch.Tensor, keep: Counts
) -> torch.Tensor:
    """Boolean (B, N): the highest-scored candidates of every image, ``keep`` of each.

    Args:
        scores_BN: Scores.
        candidates_BN: Boolean, the rows to choose from.
        image_BN: Image of each row inside its sample, -1 elsewhere.
        keep: How many of each image; all where there are fewer.
    """
    return candidates_BN & (ranks(scores_BN, candidates_BN, image_BN) < per_row(keep, image_BN))


def count(mask_BN: torch.Tensor, image_BN: torch.Tensor, like: Counts) -> Counts:
    """Rows of every image in a mask, for choices whose size depends on the data. Waits for the device."""
    found = []
    for b, sample in enumerate(like):
        images = image_BN[b][mask_BN[b]]
        found.append(tuple(torch.bincount(images, minlength=len(sample)).tolist()) if sample else ())
    return tuple(found)


def split(total: int, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Shares of a budget in proportion to sizes, by largest remainder; ties go to the earlier."""
    whole = sum(sizes)
    total = min(total, whole)
    if not whole:
        return tuple(0 for _ in sizes)
    exact = [total * size / whole for size in sizes]
    shares = [int(e) for e in exact]
    by_rest = sorted(range(len(sizes)), key=lambda i: (shares[i] - exact[i], i))
    for i in by_rest[: total - sum(shares)]:
        shares[i] += 1
    return tuple(shares)
