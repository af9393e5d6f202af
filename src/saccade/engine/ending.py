"""Where the next token is read once rows are gone: at the last row that is left.

In a prompt that really is shorter, the row before a text row (or before what is still to be said) is the last
one left. Here the residual stream keeps its length, so every dropped row shows the output of that row.

Shape letters: B batch, N rows, R asking rows, T rows of all samples together, D hidden.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from saccade.core.route import Route
from saccade.core.rows import RowIndex, last_upto
from saccade.engine.frame import Frame


def read_where_left(frame: Frame, hidden_BND: torch.Tensor) -> torch.Tensor:
    """The decoder's output, where visual rows that are gone show that of the last row left before them.

    Where nothing is left before a row, and in padding, it stays as it is. Nothing waits for the device.
    """
    step = frame.steps[-1]
    if step is None or step.alive is None or frame.visual_BN is None:
        return hidden_BND
    device, (batch, rows, width) = hidden_BND.device, hidden_BND.shape
    visual_BN = frame.visual_BN.to(device, non_blocking=True)
    from_BN = _read_from(step.alive.on(device).mask_BN, visual_BN)
    from_BN = from_BN + torch.arange(batch, device=device)[:, None] * rows
    return hidden_BND.reshape(batch * rows, width).index_select(0, from_BN.flatten()).view_as(hidden_BND)


def check_end(route: Route, past: int, spec: str) -> None:
    """Refuses a forward on a cache whose end shows nothing: an image of which no row is left.

    The last row left is one of an earlier forward then, whose output is gone.

    Args:
        route: The rows of every layer of this forward.
        past: Rows before it.
        spec: The plan, for the message.

    Raises:
        ValueError: If a sample ends so.
    """
    if not past or not route.layout.has_visual:
        return
    layout, alive_BN = route.layout, route.layers[-1].alive_BN
    end_B1 = last_upto(layout.real_BN)[:, -1:].clamp(min=0)
    gone_BN = layout.visual_BN & ~alive_BN & (last_upto(alive_BN) < 0)
    if bool(gone_BN.gather(1, end_B1).any()):
        raise ValueError(
            f"{spec} leaves no row of the image that this prompt ends with, and the text before it ran "
            "earlier: give text and image in one forward, or text after the image"
        )


def read_from(route: Route) -> torch.Tensor:
    """Which row's output stands at each row (B, N) after a route, on the host."""
    return _read_from(route.layers[-1].alive_BN, route.layout.visual_BN)


def _read_from(alive_BN: torch.Tensor, visual_BN: torch.Tensor) -> torch.Tensor:
    left_BN = last_upto(alive_BN)
    own_N = torch.arange(alive_BN.shape[1], device=alive_BN.device)
    return torch.where(visual_BN & (left_BN >= 0), left_BN, own_N)


def those_left(asks: RowIndex, alive: RowIndex | None) -> RowIndex:
    """Asking rows, with the last row left before them in place of those that were dropped.

    Args:
        asks: Rows that ask.
        alive: Rows that are alive; all if None.
    """
    if alive is None:
        return asks
    left_BR = last_upto(alive.mask_BN).gather(1, asks.index_BR)
    index_BR = torch.where(left_BR < 0, asks.index_BR, left_BR)
    flat_BR = index_BR + torch.arange(asks.batch, device=index_BR.device)[:, None] * asks.rows
    flat_T = flat_BR.flatten()
    if asks.valid_BR is not None:
        flat_T = flat_T.index_select(0, asks.packed_T)
    return replace(asks, slices=None, index_BR=index_BR, flat_T=flat_T)
