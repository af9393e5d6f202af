"""Leaving patches out of a vision tower before its first layer (PixelPrune, arXiv 2604.00886).

The tower's layers run on what is left; what joins patches is given back its full length, with zeros at the
rows that were left out, so that everything after it finds as many rows as ever.

Shape letters: R joined rows in placeholder order, P patches in the order inside the tower, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from saccade.core.precision import wide
from saccade.core.predicted import TowerPrune, unpredicted
from saccade.families import Family
from saccade.families.vision import Tower

PRUNING = "saccade_pruning"
"""Keyword that carries a run's pruning through the stock tower to its layers, recomputed ones too."""


class Pruning:
    """What one run of a tower leaves out.

    Attributes:
        keep_R: Rows whose patches pass the tower.
    """

    def __init__(
        self, family: Family, keep_R: torch.Tensor, order_R: torch.Tensor | None, merge: int
    ) -> None:
        """Prepares it; waits for the device.

        Args:
            family: Adapter that knows the layers' arguments.
            keep_R: Rows that pass.
            order_R: Where each stands inside the tower; None if in the same place.
            merge: Patches joined in a row.
        """
        self.family, self.keep_R = family, keep_R
        inside_R = keep_R if order_R is None else torch.empty_like(keep_R).scatter(0, order_R, keep_R)
        self.keep_P = inside_R.repeat_interleave(merge)
        self.rows, self.patches = (part.nonzero()[:, 0] for part in (inside_R, self.keep_P))
        self._fitted: dict[int, tuple[Any, dict[str, Any]]] = {}

    @classmethod
    def of(
        cls,
        prune: TowerPrune,
        family: Family,
        tower: Tower,
        order_P: torch.Tensor | None,
        args: tuple,
        kwargs: Mapping[str, Any],
    ) -> Pruning:
        """Decides by the pixels that a tower is given; ``order_P`` is ``Family.tower_order``."""
        planes = family.joined_pixels(tower.module, args, kwargs)
        keep_R = torch.cat([unpredicted(wide(plane), prune.threshold).flatten() for plane in planes])
        # The patches of a row stand together.
        order_R = None if order_P is None else order_P.to(keep_R.device)[:: tower.merge] // tower.merge
        return cls(family, keep_R, order_R, tower.merge)

    def fitted(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of a layer for the patches that are left, made once for layers that share theirs."""
        marks = self.family.fewer_patches_of(kwargs)
        known = self._fitted.get(id(marks))
        if known is None or known[0] is not marks:
            known = self._fitted[id(marks)] = (
                marks,
                self.family.fewer_patches(kwargs, self.keep_P, self.patches),
            )
        return {**kwargs, **known[1]}

    def spread(self, rows_KD: torch.Tensor) -> torch.Tensor:
        """Joined rows at their places inside the tower, zeros at the others."""
        full = rows_KD.new_zeros(len(self.keep_R), rows_KD.shape[1])
        return full.index_copy(0, self.rows, rows_KD)


def install(family: Family, tower: Tower, running: Callable[[], Pruning | None]) -> list[Callable[[], None]]:
    """Puts hooks on a tower's layers and on what joins its patches; returns what takes them off.

    Args:
        family: The model's adapter.
        tower: Its tower.
        running: Gives what the run at hand leaves out.

    Raises:
        ValueError: If patches cannot leave before this tower.
    """
    # What cannot be is refused before any hook is there.
    first, joiners, hooks = tower.layers[0], list(family.joiners(tower.module)), []

    @torch.compiler.disable
    def before_layer(
        layer: nn.Module, args: tuple, kwargs: dict[str, Any]
    ) -> tuple[tuple, dict[str, Any]] | None:
        pruning: Pruning | None = kwargs.pop(PRUNING, None)
        if pruning is None:
            return None
        kwargs = pruning.fitted(kwargs)
        if layer is first:
            name = None if args else "hidden_states"
            hidden = (args[0] if name is None else kwargs[name])[pruning.patches]
            args, kwargs = ((hidden, *args[1:]), kwargs) if name is None else (args, {**kwargs, name: hidden})
        return args, kwargs

    @torch.compiler.disable
    def after_joiner(module: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor | None:
        pruning = running()
        return None if pruning is None else pruning.spread(output)

    for layer in tower.layers:
        hooks.append(layer.register_forward_pre_hook(before_layer, with_kwargs=True).remove)
    for joiner in joiners:
        hooks.append(joiner.register_forward_hook(after_joiner).remove)
    return hooks
