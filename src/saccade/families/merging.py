"""What a family must know so that tokens can merge inside its vision tower; by itself none can.

Shape letters: T views, P rows of a view, N tokens of all views, V tower width, H heads, K head width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from saccade.core.tower import TowerAbility


class MergingTokens:
    """The part of an adapter that takes the layers of a tower apart, between attention and MLP."""

    name: ClassVar[str]
    tower_can: ClassVar[tuple[TowerAbility, ...]] = ()
    """What can be done to patches inside its vision tower. Registered classes say it themselves, as a plain
    value: it is read from their text."""

    def tower_layer(
        self,
        layer: nn.Module,
        hidden_TPV: torch.Tensor,
        bias_T11P: torch.Tensor | None,
        after_attention: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
    ) -> torch.Tensor:
        """One layer of the tower with something done between its attention and its MLP.

        Args:
            layer: The layer.
            hidden_TPV: What enters it.
            bias_T11P: What is added to the attention logits, or None.
            after_attention: Called with the residual stream, the queries and the keys (T, H, P, K); what it
                returns goes on.
        """
        raise ValueError(f"{self.name}: the layers of this vision tower cannot be taken apart")

    def tower_cells(self, module: nn.Module, kwargs: Mapping[str, Any]) -> list[int]:
        """Patches of every part of the pictures inside which tokens merge, in the order of a packed tower.

        Args:
            module: The tower.
            kwargs: Keyword arguments of its forward.
        """
        raise ValueError(f"{self.name}: the patches of this vision tower are not packed")

    def packed_layer(
        self,
        layer: nn.Module,
        hidden_NV: torch.Tensor,
        rotary: tuple[torch.Tensor, ...],
        attend: Callable[[Sequence[torch.Tensor], float, float], torch.Tensor],
        after_attention: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    ) -> torch.Tensor:
        """One layer of a packed tower with something done between its attention and its MLP.

        Args:
            layer: The layer.
            hidden_NV: The tokens that enter it.
            rotary: Their cosines and sines.
            attend: Mixes values (N, H, K) by queries, keys and values (H, N, K), a scale and a dropout.
            after_attention: Called with the residual stream and the keys (H, N, K) before they turn; what it
                returns goes on.
        """
        raise ValueError(f"{self.name}: the layers of this vision tower cannot be taken apart")
