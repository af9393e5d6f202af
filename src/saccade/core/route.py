"""The program of all layers: which rows are alive, which query, which pass the FFN (pure).

Shape letters: B batch, N rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from saccade.core.layout import Layout
from saccade.core.stages import Scoring

Visibility = Literal["causal", "text_and_self"]


@dataclass(frozen=True, eq=False)
class LayerRoute:
    """Row sets of one decoder layer, each a boolean (batch, rows) mask.

    Attributes:
        alive_BN: Rows whose K and V are computed, cached and attended to.
        query_BN: Rows that ask: q_proj, scores, AV, o_proj. Others get attention output 0.
        ffn_BN: Rows that pass the post-norm and the FFN. Others get FFN output 0.
        visibility: What visual queries see: every earlier row, or only text and themselves.
        cached_BN: Rows whose K and V stay in the cache once this forward is over, for decoding and later
            turns; None for all that are alive (skip KV-cache: fewer).
    """

    alive_BN: torch.Tensor
    query_BN: torch.Tensor
    ffn_BN: torch.Tensor
    visibility: Visibility = "causal"
    cached_BN: torch.Tensor | None = None

    @property
    def is_dense(self) -> bool:
        """Whether this layer is the stock layer."""
        full = all(bool(rows.all()) for rows in (self.alive_BN, self.query_BN, self.ffn_BN))
        return full and self.visibility == "causal" and self.cached_BN is None

    @property
    def held_BN(self) -> torch.Tensor:
        """Rows that the cache holds once this forward is over."""
        return self.alive_BN if self.cached_BN is None else self.alive_BN & self.cached_BN


@dataclass(frozen=True, eq=False)
class Route:
    """The program of a forward: one ``LayerRoute`` for every decoder layer.

    Layers that share a set share the tensor, so index work is done once per distinct set.

    Attributes:
        layout: Where the visual rows are.
        layers: Row sets of every layer.
        scorings: What was computed beside them to find the sets.
    """

    layout: Layout
    layers: tuple[LayerRoute, ...]
    scorings: tuple[Scoring, ...] = ()

    @classmethod
    def dense(cls, layout: Layout, num_layers: int) -> Route:
        """The stock model: every row in every set of every layer."""
        full = torch.ones_like(layout.visual_BN)
        return cls(layout, (LayerRoute(full, full, full),) * num_layers)

    def check(self) -> Route:
        """Returns itself if the sets are consistent.

        Raises:
            ValueError: If a layer queries or feeds rows that are not alive, or a dropped row returns.
        """
        before = None
        for number, layer in enumerate(self.layers):
            sets = {"query": layer.query_BN, "ffn": layer.ffn_BN, "cached": layer.cached_BN}
            for name, rows in sets.items():
                if rows is None:
                    continue
                if rows.shape != self.layout.visual_BN.shape:
                    raise ValueError(f"layer {number}: {name} rows {tuple(rows.shape)} do not fit the layout")
                if name != "cached" and bool((rows & ~layer.alive_BN).any()):
                    raise ValueError(f"layer {number}: {name} holds rows that are not alive")
            if before is not None and bool((layer.alive_BN & ~before).any()):
                raise ValueError(f"layer {number} revives rows that layer {number - 1} had dropped")
            before = layer.alive_BN
        return self

    def counts(self) -> list[tuple[int, int, int]]:
        """Rows in (alive, query, ffn) of every layer, summed over the batch."""
        return [
            (int(layer.alive_BN.sum()), int(layer.query_BN.sum()), int(layer.ffn_BN.sum()))
            for layer in self.layers
        ]


def compose(routes: Sequence[Route]) -> Route:
    """Intersects routes of one layout layer by layer; a row dropped by one is dropped for all.

    Raises:
        ValueError: If there is no route, or they are of different layouts or depths.
    """
    if not routes:
        raise ValueError("nothing to compose")
    first = routes[0]
    if any(r.layout is not first.layout or len(r.layers) != len(first.layers) for r in routes):
        raise ValueError("only routes of the same layout and depth compose")
    if len(routes) == 1:
        return first
    memo: dict[tuple[int, ...], torch.Tensor] = {}

    def meet(*sets: torch.Tensor) -> torch.Tensor:
        distinct = list({id(s): s for s in sets}.values())
        if len(distinct) == 1:
            return distinct[0]
        key = tuple(sorted(id(s) for s in distinct))
        if key not in memo:
            found = torch.stack(distinct).all(0)
            # One tensor per set: the engine and cost know equal sets by identity.
            memo[key] = next((s for s in distinct if torch.equal(s, found)), found)
        return memo[key]

    layers = []
    for group in zip(*(r.layers for r in routes), strict=True):
        alive = meet(*(g.alive_BN for g in group))
        query = meet(alive, *(g.query_BN for g in group))
        ffn = meet(alive, *(g.ffn_BN for g in group))
        narrow = any(g.visibility == "text_and_self" for g in group)
        held = [g.cached_BN for g in group if g.cached_BN is not None]
        cached = meet(*held) if held else None
        layers.append(LayerRoute(alive, query, ffn, "text_and_self" if narrow else "causal", cached))
    return Route(first.layout, tuple(layers))
