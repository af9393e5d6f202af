"""Merging tokens inside a vision tower that takes patches packed; all are put back before they are joined.

Tokens merge inside a cell: a window where the tower has some, else a whole view. So windows stay windows, and
a layer that sees the whole view sees what is left in its windows. A merged token turns as the one that it was
merged into.

Shape letters: P patches that the tower began with, N tokens that enter a layer, C cells (or segments that
attend) of one size, n tokens of each, H heads, K head width, V tower width.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
import torch.nn.functional as F

from saccade.core import bipartite
from saccade.core.precision import wide
from saccade.core.tower import merged_away
from saccade.engine.mesh import all_heads
from saccade.engine.swap import swap_forward
from saccade.families import Family
from saccade.families.base import run_as_layer
from saccade.families.vision import Tower

PACKED = "saccade_packed"
"""Keyword that carries a run's merging through the stock tower to its layers, recomputed ones too."""


class PackedMerging:
    """Which tokens were merged in one run of a tower.

    Kept for every layer, so that a layer that is recomputed under gradient checkpointing finds its own.
    """

    def __init__(self, r: int, cells: Sequence[int]) -> None:
        """Begins with nothing merged.

        Args:
            r: Tokens that merge in every layer and cell, at most half of those there are.
            cells: Patches of every cell, in the order inside the tower.
        """
        self.r = r
        self._tokens: list[tuple[int, ...]] = [tuple(cells)]
        self._sizes: list[torch.Tensor | None] = [None]
        self._at: list[torch.Tensor | None] = [None]
        self._where: list[torch.Tensor | None] = [None]
        self._segments: dict[int, tuple[torch.Tensor, tuple[int, ...]]] = {}

    def put_back(self, x_NV: torch.Tensor) -> torch.Tensor:
        """Gives every patch what its token holds."""
        where_P = self._where[-1]
        return x_NV if where_P is None else x_NV[where_P]

    def rotary(self, layer: int, tables: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """The rotary tables of the tokens that enter a layer, of those of all patches."""
        at_N = self._at[layer]
        return tuple(tables) if at_N is None else tuple(table[at_N] for table in tables)

    def attend(
        self, layer: int, ends: torch.Tensor, heads: Sequence[torch.Tensor], scale: float, dropout: float
    ) -> torch.Tensor:
        """Attention (N, H, K) of a layer, segment by segment, proportional to what tokens stand for.

        Args:
            layer: Its number.
            ends: Where its segments would end with all patches, 0 first.
            heads: Queries, keys and values, (H, N, K).
            scale: Of the logits.
            dropout: Of the weights.
        """
        sizes_N, found = self._sizes[layer], heads[2].new_empty(heads[2].transpose(0, 1).shape)
        for at_Cn in by_size(self._tokens_of(layer, ends), found.device):
            q, k, v = (part[:, at_Cn].transpose(0, 1) for part in heads)
            bias = None if sizes_N is None else sizes_N[at_Cn].log()[:, None, None].to(q.dtype)
            mixed_CHnK = F.scaled_dot_product_attention(q, k, v, bias, dropout, scale=scale)
            found = found.index_copy(0, at_Cn.flatten(), mixed_CHnK.transpose(1, 2).flatten(0, 1))
        return found

    def _tokens_of(self, layer: int, ends: torch.Tensor) -> list[int]:
        """Tokens of every segment of a layer."""
        known = self._segments.get(id(ends))
        if known is None or known[0] is not ends:
            # Which cells each segment is made of; read once, as the stock tower reads it in every layer.
            before = {patches: n for n, patches in enumerate(accumulate(self._tokens[0], initial=0))}
            known = self._segments[id(ends)] = (ends, tuple(before[int(end)] for end in ends.tolist()))
        totals = list(accumulate(self._tokens[layer], initial=0))
        borders = [totals[cell] for cell in known[1]]
        return [end - start for start, end in pairwise(borders) if end > start]

    def enter(self, layer: int, x_NV: torch.Tensor, keys_HNK: torch.Tensor) -> torch.Tensor:
        """Merges a layer's tokens behind its attention, by their keys; returns those that go on."""
        tokens, device = self._tokens[layer], x_NV.device
        left = tuple(n - merged_away(n, self.r, 0) for n in tokens)
        if left == tokens:
            self._keep(layer, tokens, self._sizes[layer], self._at[layer], self._where[layer])
            return x_NV
        count, total = sum(tokens), sum(left)
        every_N = torch.arange(count, device=device)
        sizes_N, from_N = self._sizes[layer], self._at[layer]
        sizes_N = wide(x_NV.new_ones(count)) if sizes_N is None else sizes_N
        from_N = every_N if from_N is None else from_N
        out_MV, sizes_M = x_NV.new_zeros(total, x_NV.shape[1]), sizes_N.new_zeros(total)
        at_M, into_N = every_N.new_zeros(total), every_N.new_zeros(count)
        for at_Cn, to_Cm in zip(by_size(tokens, device), by_size(tokens, device, left), strict=True):
            metric_CnK = wide(keys_HNK.detach()[:, at_Cn]).mean(0)
            pairs = bipartite.match(metric_CnK, self.r, 0)
            to_M = to_Cm.flatten()
            if pairs is None:
                merged, weights, source_Cm, local_Cn = x_NV[at_Cn], sizes_N[at_Cn], at_Cn, None
            else:
                merged, weights = bipartite.merge(x_NV[at_Cn], sizes_N[at_Cn], pairs)
                halves = torch.arange(at_Cn.shape[1] // 2, device=device).expand(len(at_Cn), -1)
                source_Cm = at_Cn.gather(1, torch.cat((pairs.stay_TU * 2, halves * 2 + 1), dim=1))
                local_Cn = pairs.into_TN
            out_MV = out_MV.index_copy(0, to_M, merged.flatten(0, 1))
            sizes_M[to_M], at_M[to_M] = weights.flatten(), from_N[source_Cm.flatten()]
            into_N[at_Cn] = to_Cm if local_Cn is None else to_Cm[:, :1] + local_Cn
        where_P = self._where[layer]
        self._keep(layer, left, sizes_M, at_M, into_N if where_P is None else into_N[where_P])
        return out_MV

    def _keep(
        self,
        layer: int,
        tokens: tuple[int, ...],
        sizes: torch.Tensor | None,
        at: torch.Tensor | None,
        where: torch.Tensor | None,
    ) -> None:
        if len(self._tokens) > layer + 1:
            # A layer that is recomputed comes to the same, and what later layers found stays.
            return
        self._tokens.append(tokens)
        self._sizes.append(sizes)
        self._at.append(at)
        self._where.append(where)


def by_size(
    tokens: Sequence[int], device: torch.device, after: Sequence[int] | None = None
) -> list[torch.Tensor]:
    """Places (C, n) of the tokens of cells of one size, for every size that occurs.

    Args:
        tokens: Tokens of every cell, which are grouped by them.
        device: Where to put the places.
        after: Tokens that every cell has instead, for places among those.
    """
    lengths = tokens if after is None else after
    starts: dict[tuple[int, int], list[int]] = {}
    for n, m, start in zip(tokens, lengths, accumulate(lengths, initial=0), strict=False):
        starts.setdefault((n, m), []).append(start)
    return [
        torch.tensor(firsts, device=device)[:, None] + torch.arange(m, device=device)
        for (_, m), firsts in starts.items()
    ]


class PackedLayer:
    """Stands in for the forward of one layer of a tower."""

    def __init__(self, family: Family, layer: Any, number: int, heads: int) -> None:
        """Prepares it; ``install`` puts it in place.

        Args:
            family: Adapter that takes the layer apart.
            layer: The layer.
            number: Its number.
            heads: Its heads: all, also where processes share them.
        """
        self.family, self.layer, self.number, self.heads = family, layer, number, heads
        self.inner: Callable[..., torch.Tensor] = layer.forward

    def install(self) -> Callable[[], None]:
        """Puts it in place; returns what undoes it."""

        def instead(inner: Callable[..., torch.Tensor]) -> PackedLayer:
            self.inner = inner
            return self

        return swap_forward(self.layer, instead)

    def __call__(
        self, hidden_NV: torch.Tensor, *args: Any, saccade_packed: PackedMerging | None = None, **kwargs: Any
    ) -> torch.Tensor:
        if saccade_packed is None:
            return self.inner(hidden_NV, *args, **kwargs)
        return run_as_layer(self.layer, functools.partial(self._run, saccade_packed, kwargs), hidden_NV)

    @torch.compiler.disable
    def _run(
        self, merging: PackedMerging, kwargs: Mapping[str, Any], hidden_NV: torch.Tensor
    ) -> torch.Tensor:
        number, ends = self.number, kwargs["cu_seqlens"]

        def attend(heads: Sequence[torch.Tensor], scale: float, dropout: float) -> torch.Tensor:
            return merging.attend(number, ends, heads, scale, dropout)

        def after_attention(x_NV: torch.Tensor, keys_HNK: torch.Tensor) -> torch.Tensor:
            keys_HNK = all_heads(keys_HNK.detach()[None], self.heads, self.layer)[0]
            return merging.enter(number, x_NV, keys_HNK)

        rotary = merging.rotary(number, kwargs["position_embeddings"])
        return self.family.packed_layer(self.layer, hidden_NV, rotary, attend, after_attention)


def install(
    family: Family, tower: Tower, running: Callable[[], PackedMerging | None]
) -> list[Callable[[], None]]:
    """Puts stand-ins on a tower's layers, and hooks on what joins its patches; returns what takes them off.

    Args:
        family: The model's adapter.
        tower: Its tower.
        running: Gives what the run at hand merges.
    """

    @torch.compiler.disable
    def before_joiner(module: Any, args: tuple) -> tuple | None:
        merging = running()
        return None if merging is None else (merging.put_back(args[0]), *args[1:])

    undo = [
        PackedLayer(family, layer, number, tower.heads).install() for number, layer in enumerate(tower.layers)
    ]
    return undo + [
        joiner.register_forward_pre_hook(before_joiner).remove for joiner in family.joiners(tower.module)
    ]
