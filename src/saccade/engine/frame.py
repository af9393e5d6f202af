"""One forward's program, made ready: index tensors once per distinct row set, masks once per distinct pair.

Shape letters: B batch, N new rows, Q query rows, K cached keys, T rows of the full sequence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from saccade.engine.cache import KeyRows
from saccade.route import LayerRoute, Route
from saccade.rows import RowIndex, blocks


@dataclass(frozen=True, eq=False)
class Step:
    """What one layer does in this forward; None stands for every new row.

    Attributes:
        alive: Rows whose keys and values are made and kept.
        query: Rows that ask.
        ffn: Rows that pass the FFN.
        narrow: Visual rows that see only text and themselves, where the layer is read so.
    """

    alive: RowIndex | None = None
    query: RowIndex | None = None
    ffn: RowIndex | None = None
    narrow: RowIndex | None = None

    @property
    def attends_as_stock(self) -> bool:
        """Whether the attention half is the stock layer's."""
        return self.alive is None and self.query is None and self.narrow is None


@dataclass(frozen=True)
class Call:
    """One attention call: packed query rows ``start:stop`` over the first ``keys`` keys."""

    start: int
    stop: int
    keys: int
    mask: torch.Tensor | None
    causal: bool


class Frame:
    """Everything the layers need to know about one forward; it travels with the call, never with the model.

    Attributes:
        steps: What each layer does, None where it is the stock layer.
        batch: Samples.
        new: Rows of this forward.
        past: Rows of the full sequence before it.
        real_BT: False where a row of the full sequence is padding; None where causality hides all padding.
    """

    def __init__(
        self,
        steps: tuple[Step | None, ...],
        batch: int,
        new: int,
        past: int,
        real_BT: torch.Tensor | None,
        device: torch.device,
    ) -> None:
        self.steps, self.batch, self.new, self.past = steps, batch, new, past
        self.real_BT, self.device = real_BT, device
        self._memo: dict[tuple, tuple[Any, tuple]] = {}

    @classmethod
    def build(
        cls,
        route: Route | None,
        num_layers: int,
        batch: int,
        new: int,
        past: int,
        attention_mask: torch.Tensor | None,
        device: torch.device,
    ) -> Frame:
        """Prepares a forward.

        Args:
            route: The program, or None where no new row is visual.
            num_layers: Depth of the model.
            batch: Samples.
            new: Rows of this forward.
            past: Rows of the full sequence before it.
            attention_mask: (B, T) with 0 at padding, or None.
            device: Where the hidden states are.
        """
        steps = (None,) * num_layers if route is None else compile_steps(route, device)
        real = None if attention_mask is None else attention_mask.to(device=device, dtype=torch.bool)
        if real is not None:
            before = real[:, 1:] & ~real[:, :-1]
            hidden = not bool(before.any()) if past == 0 else bool(real.all())
            real = None if hidden else real
        return cls(steps, batch, new, past, real, device)

    def to(self, device: torch.device) -> Frame:
        """The same forward for layers on another device (models split over devices)."""
        if device == self.device:
            return self
        return self.remember(("to", device), (), lambda: self._moved(device))

    def _moved(self, device: torch.device) -> Frame:
        there: dict[int, RowIndex] = {}

        def moved(rows: RowIndex | None) -> RowIndex | None:
            return None if rows is None else there.setdefault(id(rows), rows.on(device))

        steps = {
            id(s): Step(moved(s.alive), moved(s.query), moved(s.ffn), moved(s.narrow))
            for s in self.steps
            if s is not None
        }
        real = None if self.real_BT is None else self.real_BT.to(device)
        return Frame(
            tuple(steps.get(id(s)) for s in self.steps), self.batch, self.new, self.past, real, device
        )

    def remember(self, key: tuple, owners: tuple, make: Callable[[], Any]) -> Any:
        """Computes a value once per frame; ``owners`` keeps alive the objects whose ids are in the key."""
        if key not in self._memo:
            self._memo[key] = (make(), owners)
        return self._memo[key][0]

    def every(self, total: int) -> KeyRows:
        """Key rows of a cache in which nothing was dropped."""
        return self.remember(("every", total), (), lambda: KeyRows.every(total, self.device))

    def keys(self, held: KeyRows | None, step: Step) -> KeyRows:
        """Key rows of a layer after this forward's alive rows were appended to those it held."""
        if step.alive is None and (held is None or held.dense):
            return self.every(self.past + self.new)
        return self.remember(
            ("keys", id(held), id(step.alive)), (held, step.alive), lambda: self._append(held, step.alive)
        )

    def _append(self, held: KeyRows | None, alive: RowIndex | None) -> KeyRows:
        fresh = self._ids(alive)
        gapless = alive is None or alive.valid_BR is None
        if held is None:
            return KeyRows(fresh, False, gapless)
        wide = max(held.ids_BK.shape[0], fresh.shape[0])
        ids = torch.cat([held.ids_BK.expand(wide, -1), fresh.expand(wide, -1)], dim=1)
        return KeyRows(ids, False, gapless and held.gapless)

    def _ids(self, rows: RowIndex | None) -> torch.Tensor:
        if rows is None:
            return torch.arange(self.past, self.past + self.new, device=self.device)[None]
        ids = rows.index_BR + self.past
        return ids if rows.valid_BR is None else ids.masked_fill(~rows.valid_BR, -1)

    def calls(self, step: Step, keys: KeyRows) -> tuple[Call, ...]:
        """The attention calls of a layer: causal squares and suffixes where they serve, else a masked one."""
        key = ("calls", id(step.query), id(step.alive), id(keys))
        return self.remember(key, (step.query, step.alive, keys), lambda: self._calls(step, keys))

    def _calls(self, step: Step, keys: KeyRows) -> tuple[Call, ...]:
        count = self.new if step.query is None else step.query.count
        total = keys.ids_BK.shape[1]
        if self.real_BT is None:
            same = step.query is step.alive
            if keys.dense or (same and self.past == 0):
                everything = self._all_rows()
                split = blocks(step.query or everything, step.alive or everything, self.past, same)
                if split is not None:
                    return tuple(self._causal(b.start, b.stop, b.keys, b.offset) for b in split)
            elif self.new == 1 and keys.gapless:
                return (Call(0, count, total, None, False),)
        return (Call(0, count, total, self._mask(step.query, keys), False),)

    def _all_rows(self) -> RowIndex:
        """Every new row, as a shape for ``blocks``: nothing is gathered by it."""
        none = torch.empty(0)
        return RowIndex(self.batch, self.new, self.new, ((0, self.new),), none, None, none, none)

    def _causal(self, start: int, stop: int, keys: int, offset: int) -> Call:
        if offset == 0 and keys == stop - start:
            return Call(start, stop, keys, None, keys > 1)
        if stop - start == 1:
            return Call(start, stop, keys, None, False)
        mask = torch.ones(stop - start, keys, dtype=torch.bool, device=self.device).tril(offset)
        return Call(start, stop, keys, mask, False)

    def _mask(self, query: RowIndex | None, keys: KeyRows) -> torch.Tensor:
        """Boolean (B or 1, 1, Q, K) by row numbers: earlier, real, and every query sees at least itself."""
        asks, answers = self._ids(query), keys.ids_BK
        mask = answers[:, None, :] <= asks[:, :, None]
        mask &= (answers >= 0)[:, None, :]
        if self.real_BT is not None:
            wide = answers.expand(self.real_BT.shape[0], -1)
            mask = mask & self.real_BT.gather(1, wide.clamp(min=0))[:, None, :]
            mask = mask | (answers[:, None, :] == asks[:, :, None]) & (asks >= 0)[:, :, None]
        # A query slot that only pads its sample sees everything, so that no softmax is over nothing.
        mask = mask | (asks < 0)[:, :, None]
        return mask[:, None]


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
        made = Step(index(layer.alive_BN), index(layer.query_BN), index(layer.ffn_BN))
        return None if made.attends_as_stock and made.ffn is None else made

    for layer in route.layers:
        if id(layer) not in steps:
            steps[id(layer)] = step(layer)
    return tuple(steps[id(layer)] for layer in route.layers)
