"""What each layer does in a forward: row sets as index tensors, one per distinct set.

Shape letters: B batch, N rows of the forward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from saccade.core.route import LayerRoute, Route
from saccade.core.rows import RowIndex


@dataclass(frozen=True, eq=False)
class Moves:
    """How far positions have closed up in this forward.

    Attributes:
        before_BN: Dropped rows before each row.
        total_B1: Dropped rows of each sample.
    """

    before_BN: torch.Tensor
    total_B1: torch.Tensor


@dataclass(frozen=True, eq=False)
class Step:
    """What one layer does in this forward; None stands for every new row.

    Attributes:
        alive: Rows whose keys and values are made and kept.
        query: Rows that ask.
        ffn: Rows that pass the FFN.
        narrow: Visual rows that see only text and themselves, where the layer is read so.
        moves: How positions closed up, or None where they are the stock model's.
        unpadded: Whether no alive row is padding.
    """

    alive: RowIndex | None = None
    query: RowIndex | None = None
    ffn: RowIndex | None = None
    narrow: RowIndex | None = None
    moves: Moves | None = None
    unpadded: bool = False

    @property
    def attends_as_stock(self) -> bool:
        """Whether the attention half is the stock layer's."""
        return self.alive is None and self.query is None and self.narrow is None


def compile_steps(route: Route, device: torch.device) -> tuple[Step | None, ...]:
    """Index tensors of a route, one per distinct row set."""
    indices: dict[int, RowIndex | None] = {}
    steps: dict[int, Step | None] = {}

    def index(rows_BN: torch.Tensor) -> RowIndex | None:
        if id(rows_BN) not in indices:
            indices[id(rows_BN)] = None if bool(rows_BN.all()) else RowIndex.from_mask(rows_BN).on(device)
        return indices[id(rows_BN)]

    def step(layer: LayerRoute) -> Step | None:
        layout = route.layout
        if layer.visibility == "text_and_self" and bool((layer.query_BN & layout.visual_BN).any()):
            if not bool(layer.query_BN.all()):
                raise ValueError(
                    "a layer in which visual rows see text and themselves alone needs every row; let no "
                    "other method of the plan drop or skip rows there"
                )
            text, visual = index(layout.text_BN), RowIndex.from_mask(layout.visual_BN).on(device)
            return Step(index(layer.alive_BN), text, index(layer.ffn_BN), visual)
        unpadded = not bool((layer.alive_BN & ~layout.real_BN).any())
        made = Step(index(layer.alive_BN), index(layer.query_BN), index(layer.ffn_BN), None, None, unpadded)
        return None if made.attends_as_stock and made.ffn is None else made

    for layer in route.layers:
        if id(layer) not in steps:
            steps[id(layer)] = step(layer)
    return tuple(steps[id(layer)] for layer in route.layers)


@dataclass(frozen=True)
class Narrowing:
    """What becomes of the static row sets from a stage on, worked out before anything runs.

    A set that holds every row that can be alive there becomes the rows that are left, a set without visual
    rows stays what it is. Only a set that holds some visual rows has to be met with what is left, for which
    the host waits for the device.

    Attributes:
        first: First layer that runs with what is left.
        layers: For every layer from there on its alive, query and FFN sets: ``rest``, ``text``, or the set.
        text: The layout's text rows.
        text_counts: Their number in every sample.
    """

    first: int
    layers: tuple[tuple[str | torch.Tensor, ...], ...]
    text: RowIndex
    text_counts: tuple[int, ...]

    @classmethod
    def of(cls, route: Route, first: int, text: RowIndex) -> Narrowing:
        """Reads the static sets of a route.

        Args:
            route: The static row sets, on the host.
            first: First layer that runs with what is left.
            text: The layout's text rows, on the device.
        """
        layout = route.layout
        reached_BN = route.layers[first].alive_BN & layout.visual_BN
        kinds: dict[int, str | torch.Tensor] = {}

        def kind(set_BN: torch.Tensor) -> str | torch.Tensor:
            if id(set_BN) not in kinds:
                kinds[id(set_BN)] = sort(set_BN)
            return kinds[id(set_BN)]

        def sort(set_BN: torch.Tensor) -> str | torch.Tensor:
            if bool((layout.text_BN & ~set_BN).any()):
                return set_BN
            if not bool((reached_BN & ~set_BN).any()):
                return "rest"
            return set_BN if bool((set_BN & layout.visual_BN).any()) else "text"

        layers = tuple(
            (kind(one.alive_BN), kind(one.query_BN), kind(one.ffn_BN)) for one in route.layers[first:]
        )
        return cls(first, layers, text, tuple(layout.text_BN.sum(1).tolist()))

    def steps(
        self, left_BN: torch.Tensor, counts: Sequence[int], text_BN: torch.Tensor, moves: Moves | None
    ) -> tuple[Step, ...]:
        """What the layers from ``first`` on do.

        Args:
            left_BN: Visual rows that are left, on the device.
            counts: How many of them every sample has.
            text_BN: Text rows, on the device.
            moves: How positions have closed up.
        """
        totals = [t + v for t, v in zip(self.text_counts, counts, strict=True)]
        rest = RowIndex.from_counts(left_BN | text_BN, totals)
        met: dict[int, RowIndex] = {}

        def index(kind: str | torch.Tensor) -> RowIndex:
            if isinstance(kind, str):
                return rest if kind == "rest" else self.text
            if id(kind) not in met:
                met[id(kind)] = RowIndex.from_mask(kind & (left_BN | text_BN).cpu()).on(left_BN.device)
            return met[id(kind)]

        made: dict[tuple, Step] = {}
        found = []
        for sets in self.layers:
            key = tuple(kind if isinstance(kind, str) else id(kind) for kind in sets)
            if key not in made:
                alive, query, ffn = (index(kind) for kind in sets)
                made[key] = Step(alive, query, ffn, moves=moves, unpadded=True)
            found.append(made[key])
        return tuple(found)


def closed_up(visual_BN: torch.Tensor, left_BN: torch.Tensor) -> Moves:
    """How positions close up over visual rows that are gone.

    Args:
        visual_BN: Visual rows of the forward.
        left_BN: Those that are alive.
    """
    gone = (visual_BN & ~left_BN).long()
    upto = gone.cumsum(1)
    return Moves(upto - gone, upto[:, -1:])
