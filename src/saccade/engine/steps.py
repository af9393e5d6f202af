"""What each layer does in a forward: row sets as index tensors, one per distinct set.

Shape letters: B batch, N rows of the forward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from saccade.route import LayerRoute, Route
from saccade.rows import RowIndex


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
                    "vskip(reading=mask) needs every row in its layers; let no other method cut them there"
                )
            text, visual = index(layout.text_BN), RowIndex.from_mask(layout.visual_BN).on(device)
            return Step(index(layer.alive_BN), text, index(layer.ffn_BN), visual)
        unpadded = not bool((layer.alive_BN & ~layout.real_BN).any())
        made = Step(
            index(layer.alive_BN), index(layer.query_BN), index(layer.ffn_BN), None, None, unpadded
        )
        return None if made.attends_as_stock and made.ffn is None else made

    for layer in route.layers:
        if id(layer) not in steps:
            steps[id(layer)] = step(layer)
    return tuple(steps[id(layer)] for layer in route.layers)


@dataclass(frozen=True, eq=False)
class Left:
    """What a decision has left of a batch, on the device.

    Attributes:
        visual_BN: Visual rows that are still alive.
        counts: How many of them every sample has.
    """

    visual_BN: torch.Tensor
    counts: Sequence[int]

    def host(self) -> torch.Tensor:
        """The visual rows on the host. Waits for the device."""
        return self.visual_BN.cpu()


def narrow_steps(
    route: Route, first: int, left: Left, moves: Moves | None, text_BN: torch.Tensor
) -> tuple[Step, ...]:
    """Steps of the layers from ``first`` on, cut down to the rows that a decision has left.

    Sets that held every row which was alive become the rows that are left, sets without visual rows stay as
    they are; only a set that holds some of them makes the host wait for the device.

    Args:
        route: The static row sets, on the host.
        first: First layer that runs with what is left.
        left: What is left; all of it was alive in layer ``first``.
        moves: How positions have closed up.
        text_BN: The layout's text rows on the device.
    """
    layout, device = route.layout, left.visual_BN.device
    counts = [t + v for t, v in zip(layout.text_BN.sum(1).tolist(), left.counts, strict=True)]
    rest = RowIndex.from_counts(left.visual_BN | text_BN, counts)
    reached_BN = route.layers[first].alive_BN & layout.visual_BN
    indices: dict[int, RowIndex] = {}
    steps: dict[int, Step] = {}
    text: list[RowIndex] = []

    def index(set_BN: torch.Tensor) -> RowIndex:
        if id(set_BN) not in indices:
            indices[id(set_BN)] = _cut(set_BN)
        return indices[id(set_BN)]

    def _cut(set_BN: torch.Tensor) -> RowIndex:
        whole_text = not bool((layout.text_BN & ~set_BN).any())
        if whole_text and not bool((reached_BN & ~set_BN).any()):
            return rest
        if whole_text and not bool((set_BN & layout.visual_BN).any()):
            if not text:
                text.append(RowIndex.from_mask(layout.text_BN).on(device))
            return text[0]
        return RowIndex.from_mask(set_BN & (left.host() | layout.text_BN)).on(device)

    def step(layer: LayerRoute) -> Step:
        sets = (index(layer.alive_BN), index(layer.query_BN), index(layer.ffn_BN))
        return Step(*sets, None, moves, True)

    for layer in route.layers[first:]:
        if id(layer) not in steps:
            steps[id(layer)] = step(layer)
    return tuple(steps[id(layer)] for layer in route.layers[first:])


def closed_up(visual_BN: torch.Tensor, left_BN: torch.Tensor) -> Moves:
    """How positions close up over visual rows that are gone.

    Args:
        visual_BN: Visual rows of the forward.
        left_BN: Those that are alive.
    """
    gone = (visual_BN & ~left_BN).long()
    upto = gone.cumsum(1)
    return Moves(upto - gone, upto[:, -1:])
