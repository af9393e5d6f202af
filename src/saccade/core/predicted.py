"""Which parts of a picture cannot be told from their neighbours: predictive coding on a grid (pure).

From PixelPrune (arXiv 2604.00886, section 3), after the predictor of JPEG-LS.

Shape letters: H lines, W columns, D numbers of a cell.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class TowerPrune:
    """Cells of a picture that leave before the vision tower: those that their neighbours predict.

    A cell is what the tower joins in one row.

    Attributes:
        threshold: Largest difference of a number from its prediction that still counts as none.
    """

    threshold: float


def unpredicted(cells_HWD: torch.Tensor, threshold: float) -> torch.Tensor:
    """Boolean (H, W): cells that differ from what the cells before them predict; the first one always.

    The prediction is the left neighbour; in the first column the upper one. Where the left and the upper left
    cell are alike, and the upper one is not like the upper left, a vertical edge passes, and the upper cell
    predicts. A cell that is predicted counts as its prediction from then on, so that differences do not add
    up along the way.

    Args:
        cells_HWD: Cells of one picture.
        threshold: Largest difference that counts as none.
    """
    lines, columns, _ = cells_HWD.shape
    keep_HW = torch.zeros(lines, columns, dtype=torch.bool, device=cells_HWD.device)
    known_HWD = cells_HWD.clone()
    if not keep_HW.numel():
        return keep_HW
    keep_HW[0, 0] = True

    def alike(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a - b).abs().amax(-1) <= threshold

    # Cells of one diagonal depend on those before it alone.
    for diagonal in range(1, lines + columns - 1):
        line = torch.arange(max(0, diagonal - columns + 1), min(lines, diagonal + 1), device=keep_HW.device)
        column = diagonal - line
        left = known_HWD[line, (column - 1).clamp(min=0)]
        above = known_HWD[(line - 1).clamp(min=0), column]
        corner = known_HWD[(line - 1).clamp(min=0), (column - 1).clamp(min=0)]
        edge = alike(corner, left) & ~alike(corner, above) & (line > 0)
        guess = torch.where((edge | (column == 0))[:, None], above, left)
        own = known_HWD[line, column]
        found = ~alike(own, guess)
        keep_HW[line, column] = found
        known_HWD[line, column] = torch.where(found[:, None], own, guess)
    return keep_HW
