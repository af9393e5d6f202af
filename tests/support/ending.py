"""A slow account of where the next token is read: row by row, and as a prompt that really is shorter.

Shape letters: B batch, N rows, D hidden.
"""

from __future__ import annotations

from typing import Any

import torch


def shown(hidden_BND: torch.Tensor, alive_BN: torch.Tensor, visual_BN: torch.Tensor) -> torch.Tensor:
    """A decoder's output, where visual rows that are gone show that of the last row left before them."""
    rows = []
    for b, states in enumerate(hidden_BND):
        found: list[torch.Tensor] = []
        left = None
        for n, state in enumerate(states):
            if alive_BN[b, n]:
                left = state
            found.append(left if visual_BN[b, n] and left is not None else state)
        rows.append(torch.stack(found))
    return torch.stack(rows)


def showing(norm: Any, sets: Any) -> Any:
    """Makes a stock decoder's final norm show it so; ``sets()`` gives alive and visual rows."""
    return norm.register_forward_hook(lambda module, args, output: shown(output, *sets()))
