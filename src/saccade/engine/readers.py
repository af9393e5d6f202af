"""Who reads an image: what its own rows and the text after it look at, added up without a whole map.

Shape letters: B batch, R asking rows, N rows of the forward.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from saccade.core.rows import RowIndex

CHUNK = 1 << 22
"""Attention weights held at once; a map of all asking rows over all heads never is."""


def read(
    most: Callable[[slice], torch.Tensor], asks: RowIndex, image_BN: torch.Tensor, per_ask: int
) -> torch.Tensor:
    """What every row gets of the asking rows of its own image, and of those that are text: (B, 2, N).

    Args:
        most: The largest weight over heads, (B, R, N), of some of the asking rows by their places.
        asks: The asking rows.
        image_BN: Image of each row inside its sample, -1 elsewhere.
        per_ask: Attention weights that one more asking row takes.
    """
    image_BR = image_BN.gather(1, asks.index_BR)
    real_BR = torch.ones_like(image_BR).bool() if asks.valid_BR is None else asks.valid_BR
    step = max(CHUNK // max(per_ask, 1), 1)
    total_B2N: torch.Tensor | None = None
    for start in range(0, max(asks.count, 1), step):
        part = slice(start, start + step)
        most_BRN, image_BR1 = most(part), image_BR[:, part, None]
        own_BRN = (image_BR1 == image_BN[:, None]) & (image_BR1 >= 0)
        text_BRN = (image_BR1 < 0).expand_as(own_BRN)
        both = (torch.where(who & real_BR[:, part, None], most_BRN, 0).sum(1) for who in (own_BRN, text_BRN))
        found_B2N = torch.stack(list(both), dim=1)
        total_B2N = found_B2N if total_B2N is None else total_B2N + found_B2N
    assert total_B2N is not None
    return total_B2N
