"""What a family must know so that patches can leave before its vision tower; by itself none can.

Shape letters: P patches in the order inside the tower.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn


class LeavingPatches:
    """The part of an adapter for towers that take packed patches."""

    name: ClassVar[str]

    def joined_pixels(self, module: nn.Module, args: tuple, kwargs: Mapping[str, Any]) -> list[torch.Tensor]:
        """Pixels of the patches that become each row, plane by plane (lines, columns, numbers).

        Args:
            module: The tower.
            args: What it is called with.
            kwargs: The same by name.

        Raises:
            ValueError: If no patch can leave.
        """
        raise self._stay()

    def joiners(self, module: nn.Module) -> list[nn.Module]:
        """Modules whose output is one row of the decoder for each cell that came in.

        Raises:
            ValueError: If no patch can leave.
        """
        raise self._stay()

    def fewer_patches_of(self, kwargs: Mapping[str, Any]) -> Any:
        """What of a tower layer's arguments tells whether two layers share theirs."""
        raise self._stay()

    def fewer_patches(
        self, kwargs: Mapping[str, Any], keep_P: torch.Tensor, patches: torch.Tensor
    ) -> dict[str, Any]:
        """Arguments of a tower's layer that are otherwise where some patches alone pass it.

        Args:
            kwargs: Its arguments.
            keep_P: Which patches, in the order inside the tower.
            patches: Their numbers.
        """
        raise self._stay()

    def _stay(self) -> ValueError:
        return ValueError(
            f"{self.name}: patches cannot leave before its vision tower, which does not take them packed: "
            "choose a method that merges inside it or reduces rows after it"
        )
