"""New contents of rows, and what a stock loop adds to rows between layers, which goes where contents go.

Shape letters: B batch, N rows, R rows that get something, S rewritten rows, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, overload

import torch

from saccade.core.stages import Rewrite
from saccade.families import Added


def rewritten(hidden_BND: torch.Tensor, rewrite: Rewrite) -> torch.Tensor:
    """Hidden states with some rows replaced."""
    batch, rows, width = hidden_BND.shape
    index = torch.where(rewrite.rows_BS < 0, rows, rewrite.rows_BS)[..., None].expand(-1, -1, width)
    # Padding slots write into one row too many, which is cut off again.
    spare = hidden_BND.new_zeros(batch, 1, width)
    return torch.cat([hidden_BND, spare], 1).scatter(1, index, rewrite.states_BSD.to(hidden_BND.dtype))[
        :, :rows
    ]


def without(rewrite: Rewrite, due_BND: torch.Tensor) -> Rewrite:
    """A rewrite of rows to which something was added, as it is of the rows without that."""
    due_BSD = _mixed(rewrite, due_BND)
    return replace(rewrite, states_BSD=(rewrite.states_BSD - due_BSD).to(rewrite.states_BSD.dtype))


def _mixed(rewrite: Rewrite, x_BND: torch.Tensor) -> torch.Tensor:
    """Weighted sums of rows, computed in float32 at least."""
    exact = torch.promote_types(x_BND.dtype, torch.float32)
    return rewrite.sources_BSN.detach().to(x_BND.device, exact) @ x_BND.to(exact)


class Carried(Sequence[torch.Tensor]):
    """The features that the stock loop adds in one forward, put in the place of the list that it reads.

    They are part of what a row holds: a row that a decision makes of others gets their features, mixed with
    the weights that mix their states; a row that is dropped takes its own with it. The loop reads them
    outside of the layers, so mixing them only then keeps gradients also where layers are recomputed.
    """

    def __init__(self, added: Added) -> None:
        """Begins with the features as they are."""
        self.added = added
        self._rewrites: list[Rewrite] = []

    def follow(self, rewrite: Rewrite) -> None:
        """Notes that rows have new contents from here on."""
        self._rewrites.append(rewrite)

    @torch.no_grad()
    def due(self, number: int) -> torch.Tensor | None:
        """What is about to be added (B, N, D) to a layer's output, zeros at other rows; None for nothing."""
        return self._spread(number) if number < len(self) else None

    def __len__(self) -> int:
        return len(self.added.features)

    @overload
    def __getitem__(self, number: int) -> torch.Tensor: ...

    @overload
    def __getitem__(self, number: slice) -> list[torch.Tensor]: ...

    def __getitem__(self, number: Any) -> Any:
        features = self.added.features[number]
        if not self._rewrites:
            return features
        if isinstance(number, slice):
            return [self[n] for n in range(*number.indices(len(self)))]
        return self._spread(number)[self.added.rows_BN.to(features.device)]

    def _spread(self, number: int) -> torch.Tensor:
        features_RD = self.added.features[number]
        rows_BN = self.added.rows_BN.to(features_RD.device)
        x_BND = features_RD.new_zeros(*rows_BN.shape, features_RD.shape[-1])
        x_BND[rows_BN] = features_RD
        for one in self._rewrites:
            new = Rewrite(one.rows_BS.to(x_BND.device), _mixed(one, x_BND), one.sources_BSN)
            x_BND = rewritten(x_BND, new)
        return x_BND
