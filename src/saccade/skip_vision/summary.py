"""Summary tokens: learned weighted means of visual rows, formed once before the decoder.

Shape letters: B batch, N rows, D width.
"""

from __future__ import annotations

import torch
from torch import nn


class Scorer(nn.Module):
    """The scorer that the former and the latter summary share (Skip-Vision, adaptive summary).

    ``summary = sum_i softmax_i(w . LayerNorm(x_i) + b) x_i``: weights from normed rows, the mean over raw
    ones. The bias cancels; it is there so that trained weights of the authors' layout fit. With ``w = 0`` it
    is the plain mean, which is what a model without training should take.
    """

    def __init__(self, width: int, learned: bool = True) -> None:
        """Creates it.

        Args:
            width: Width D of the decoder.
            learned: Start from small random weights, as for training; else from the plain mean.
        """
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.score = nn.Linear(width, 1)
        nn.init.normal_(self.score.weight, std=0.02 if learned else 0.0)
        nn.init.zeros_(self.score.bias)

    def weights(self, rows_BND: torch.Tensor) -> torch.Tensor:
        """Weights (B, N) of rows in their summary, float32."""
        return self.score(self.norm(rows_BND))[..., 0].float().softmax(1)

    def forward(self, rows_BND: torch.Tensor) -> torch.Tensor:
        """The summary (B, 1, D) of some rows."""
        return self.weights(rows_BND).to(rows_BND.dtype)[:, None] @ rows_BND
