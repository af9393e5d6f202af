"""The order in which CPython walks over a set of numbers, for many small sets on the device (pure).

DART's authors hold their pivots in a set, so that order is part of the method. What a set does here, CPython
has done since 3.7: a number's place is its value in the table, or the next free place after it; the table
grows fourfold when it is three fifths full.

Shape letters: X sets, P numbers of a set, S places that are tried, T places of the table.
"""

from __future__ import annotations

import torch

SMALLEST, NEXT, SHIFT = 8, 9, 5
"""Places of the first table, neighbours that are tried before a jump, and how fast jumps forget the value."""


def set_order(numbers: torch.Tensor) -> torch.Tensor:
    """Where each number that is walked over stands among those given.

    Args:
        numbers: Whole numbers from 0 (..., P), put into a set one after another.

    Returns:
        Indices (..., P): the first is that of the number which ``list(set(numbers))`` begins with. Of equal
        numbers all are given, one after another.
    """
    flat_XP = numbers.flatten(0, -2)
    table_XT = flat_XP.new_full((len(flat_XP), SMALLEST), -1)
    for count, number_X in enumerate(flat_XP.unbind(1), 1):
        table_XT = _put(table_XT, number_X, flat_XP.shape[1])
        if count * 5 >= (table_XT.shape[1] - 1) * 3:
            table_XT = _grown(table_XT, count, flat_XP.shape[1])
    place_XP = (table_XT[:, None] == flat_XP[..., None]).int().argmax(2)
    return place_XP.argsort(dim=1, stable=True).view(numbers.shape)


def _grown(table_XT: torch.Tensor, count: int, most: int) -> torch.Tensor:
    size = SMALLEST
    while size <= 4 * count:
        size *= 2
    wider_XT = table_XT.new_full((len(table_XT), size), -1)
    for number_X in table_XT.unbind(1):
        wider_XT = _put(wider_XT, number_X, most)
    return wider_XT


def _put(table_XT: torch.Tensor, number_X: torch.Tensor, most: int) -> torch.Tensor:
    """The tables with one number more each; -1 is none."""
    tried_XS = _tried(number_X.clamp(min=0), table_XT.shape[1], most)
    held_XS = table_XT.gather(1, tried_XS)
    # The first place that is free, or holds the number already.
    free_XS = (held_XS < 0) | (held_XS == number_X[:, None])
    place_X1 = tried_XS.gather(1, free_XS.int().argmax(1, keepdim=True))
    there_X1 = number_X[:, None] >= 0
    value_X1 = torch.where(there_X1, number_X[:, None], table_XT.gather(1, place_X1))
    return table_XT.scatter(1, place_X1, value_X1)


def _tried(number_X: torch.Tensor, size: int, most: int) -> torch.Tensor:
    """Places that are tried for a number, in order: enough to find a free one among ``most`` taken."""
    mask, left_X = size - 1, number_X
    at_X, tried = number_X & mask, []
    step_S = torch.arange(NEXT + 1, device=number_X.device)
    # A jump that no longer knows the value visits every place in turn; 32 bits take seven to forget.
    for _ in range(most + 7):
        near_XS = at_X[:, None] + step_S
        # Neighbours are tried only where the last of them lies in the table.
        tried.append(torch.where((at_X + NEXT <= mask)[:, None], near_XS, at_X[:, None]))
        left_X = left_X >> SHIFT
        at_X = (at_X * 5 + 1 + left_X) & mask
    return torch.cat(tried, dim=1)
