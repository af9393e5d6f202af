"""Merging tokens inside a vision tower, between attention and MLP of its layers (ToMe, arXiv 2210.09461).

Shape letters: T views, N tokens that enter a layer, P tokens that the tower began with, V tower width.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from saccade.core import bipartite
from saccade.core.bipartite import TowerMerge
from saccade.core.precision import wide
from saccade.engine.mesh import all_heads
from saccade.engine.swap import swap_forward
from saccade.engine.tower_scores import TowerScores, look
from saccade.families import Family
from saccade.families.base import run_as_layer
from saccade.families.vision import Tower

MERGING = "saccade_merging"
"""Keyword that carries a run's merging through the stock tower to its layers, recomputed ones too."""


TOO_EARLY = (
    "tokens cannot merge inside this vision tower: its features are taken before its first layer, so no "
    "layer is left to merge in; choose a method that merges before or in the decoder"
)


class Merging:
    """Which tokens were merged in one run of a tower.

    Kept for every layer, so that a layer that is recomputed under gradient checkpointing finds its own.
    """

    def __init__(self, r: int, protected: int) -> None:
        """Begins with nothing merged: ``r`` tokens per layer will be, the first ``protected`` never."""
        self.r, self.protected = r, protected
        self._sizes: list[torch.Tensor | None] = [None]
        self._where: list[torch.Tensor | None] = [None]

    @property
    def where_TP(self) -> torch.Tensor | None:
        """Which token holds each of the first ones now; None while nothing is merged."""
        return self._where[-1]

    @property
    def sizes_TN(self) -> torch.Tensor | None:
        """How many of the first tokens each token stands for; None while nothing is merged."""
        return self._sizes[-1]

    def bias(self, layer: int) -> torch.Tensor | None:
        """What proportional attention adds to the logits of a layer, (T, 1, 1, N): the log of the sizes."""
        sizes = self._sizes[layer]
        return None if sizes is None else sizes.log()[:, None, None]

    def enter(self, layer: int, keys: torch.Tensor) -> tuple[bipartite.Pairs | None, torch.Tensor]:
        """What merges in a layer with these keys (T, H, N, K), and the sizes of the tokens that enter it."""
        sizes, where = self._sizes[layer], self._where[layer]
        keys = wide(keys.detach())
        pairs = bipartite.match(keys.mean(1), self.r, self.protected)
        if sizes is None:
            sizes = keys.new_ones(keys.shape[0], keys.shape[2])
        if len(self._sizes) > layer + 1:
            # A layer that is recomputed comes to the same, and what later layers found stays.
            return pairs, sizes
        if pairs is None:
            self._sizes.append(self._sizes[layer])
            self._where.append(where)
        else:
            self._sizes.append(bipartite.add(sizes[..., None], pairs)[..., 0])
            self._where.append(pairs.into_TN if where is None else pairs.into_TN.gather(1, where))
        return pairs, sizes

    def put_back(self, x_TNV: torch.Tensor) -> torch.Tensor:
        """Gives every token that a layer began with, CLS among them, what now holds it."""
        if self.where_TP is None:
            return x_TNV
        return x_TNV.gather(1, self.where_TP[..., None].expand(-1, -1, x_TNV.shape[-1]))

    def spread(self, x_TND: torch.Tensor) -> torch.Tensor | None:
        """Gives every patch what its token holds; None while nothing is merged.

        Args:
            x_TND: One row per token. Where there is one row less, the first token's was taken off, by the
                model's configuration or by an argument.

        Raises:
            ValueError: If that token stands for patches.
        """
        if self.where_TP is None or self.sizes_TN is None:
            return None
        first = self.sizes_TN.shape[1] - x_TND.shape[1]
        if first > self.protected:
            raise ValueError(
                "this model takes the first row off its features, but its vision tower has no CLS row: set "
                "vision_feature_select_strategy to full"
            )
        return x_TND.gather(1, (self.where_TP[:, first:] - first)[..., None].expand(-1, -1, x_TND.shape[-1]))


class MergingLayer:
    """Stands in for the forward of one layer of a tower."""

    def __init__(
        self,
        family: Family,
        layer: Any,
        number: int,
        heads: int,
        merges: bool,
        watch: Callable[[TowerScores], None] | None,
        spreads: bool = False,
        running: Callable[[], Merging | None] = lambda: None,
    ) -> None:
        """Prepares it; ``install`` puts it in place.

        Args:
            family: Adapter that takes the layer apart.
            layer: The layer.
            number: Its number.
            heads: Its heads: all, also where processes share them.
            merges: Whether tokens merge in it; else it runs as ever, on what is left.
            watch: Called with the layer's scores, of the tokens that leave it.
            spreads: Whether every patch is put back behind it.
            running: Gives the merging of the run at hand, where the tower hands none to its layers.
        """
        self.family, self.layer, self.number = family, layer, number
        self.heads, self.merges, self.watch = heads, merges, watch
        self.spreads, self.running = spreads, running
        self.inner: Callable[..., torch.Tensor] = layer.forward

    def install(self) -> Callable[[], None]:
        """Puts it in place; returns what undoes it."""

        def instead(inner: Callable[..., torch.Tensor]) -> MergingLayer:
            self.inner = inner
            return self

        return swap_forward(self.layer, instead)

    def __call__(
        self, hidden_TNV: torch.Tensor, *args: Any, saccade_merging: Merging | None = None, **kwargs: Any
    ) -> torch.Tensor:
        merging = saccade_merging or self.running()
        if merging is None or not self.merges:
            return self.inner(hidden_TNV, *args, **kwargs)
        if not self.number:
            refuse_hidden(args[0] if args else kwargs.get("attention_mask"))
        return run_as_layer(self.layer, functools.partial(self._run, merging), hidden_TNV)

    @torch.compiler.disable
    def _run(self, merging: Merging, hidden_TNV: torch.Tensor) -> torch.Tensor:
        bias = merging.bias(self.number)

        def after_attention(x_TNV: torch.Tensor, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
            q, k = (all_heads(x.detach(), self.heads, self.layer) for x in (q, k))
            pairs, sizes = merging.enter(self.number, k)
            if self.watch is not None:
                with torch.no_grad():
                    scores = look([(q, k)], bool(merging.protected), bias)
                    if pairs is not None:
                        scores = scores.map(
                            lambda x: bipartite.add(x, pairs), lambda x: bipartite.merge(x, sizes, pairs)[0]
                        )
                    self.watch(scores)
            return x_TNV if pairs is None else bipartite.merge(x_TNV, sizes, pairs)[0]

        out_TNV = self.family.tower_layer(self.layer, hidden_TNV, bias, after_attention)
        return merging.put_back(out_TNV) if self.spreads else out_TNV


@torch.compiler.disable
def refuse_hidden(mask: torch.Tensor | None) -> None:
    """Refuses to merge where a tower hides patches as padding; waits for the device where it brings a mask.

    Args:
        mask: The attention mask that its layers are given: True or 0 where a patch is seen.

    Raises:
        ValueError: If any is hidden.
    """
    if mask is not None and not bool(mask.all() if mask.dtype == torch.bool else (mask == 0).all()):
        raise ValueError(
            "this plan merges tokens inside the vision tower, but the tower hides part of these pictures as "
            "padding: let the processor fill whole tiles, or choose a method that merges in the decoder"
        )


def check_merging(family: Family, tower: Tower | None, merge: TowerMerge) -> None:
    """Refuses towers in which tokens cannot merge.

    Raises:
        ValueError: Saying why.
    """
    if tower is None or not {"merge_rows", "merge_patches"} & set(family.tower_can):
        raise ValueError(
            f"tokens cannot merge inside the vision tower of {family.name}, which is of a kind that is not "
            "taken apart; choose a method that merges before or in the decoder"
        )
    if not merge.spread and "merge_rows" not in family.tower_can:
        raise ValueError(
            f"tokens cannot merge inside the vision tower of {family.name} for good: it joins neighbouring "
            "patches at fixed places, or has a row for each; let every patch be put back behind it "
            "(unmerge=true), which spares the tower alone, or choose a method that merges in the decoder"
        )
    if tower.made is None:
        raise ValueError(TOO_EARLY)
    if len(tower.states) > 1:
        raise ValueError(
            "tokens cannot merge inside this vision tower: its features come from several layers, "
            "which would not have the same tokens; set one vision_feature_layer, or choose another method"
        )
    if tower.states and tower.states[0] == 0:
        raise ValueError(TOO_EARLY)
    if not merge.spread and tower.strips and not tower.has_cls:
        raise ValueError(
            "this model takes the first row off its features, but its vision tower has no CLS row: set "
            "vision_feature_select_strategy to full"
        )
