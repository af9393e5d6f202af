"""One forward's program, made ready: index tensors once per distinct row set, masks once per distinct pair.

Shape letters: B batch, N new rows, Q query rows, K cached keys, T rows of the full sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from saccade.core.route import Route
from saccade.core.rows import RowIndex, blocks
from saccade.engine.cache import KeyRows, Shift
from saccade.engine.steps import Moves, Step, compile_steps
from saccade.families import Rotary


@dataclass(frozen=True, eq=False)
class Positions:
    """Rotary positions of the new rows.

    Attributes:
        ids_BN: The stock model's positions; B may be 1, and axes (mRoPE) come before it.
        rotate: Makes rotary tables of positions, in the model's type, or in float32.
    """

    ids_BN: torch.Tensor
    rotate: Callable[[torch.Tensor, bool], Rotary]

    def on(self, device: torch.device) -> Positions:
        """The same on another device."""

        def rotate(at: torch.Tensor, exact: bool) -> Rotary:
            cos, sin = self.rotate(at.to(self.ids_BN.device), exact)
            return cos.to(device), sin.to(device)

        return Positions(self.ids_BN.to(device), rotate)


@dataclass(frozen=True)
class AttentionCall:
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
        positions: Where rows stand and how that becomes rotary tables; None where nothing is decided
            on the way.
        decisions: The stages of this forward (``Decisions``), or None.
        visual_BN: Visual rows, on the host; None where no new row is visual.
        cached: For every layer the rows of this forward that stay in the cache once it is over, on the host;
            None where all that are alive stay. Empty if that holds for every layer.
    """

    def __init__(
        self,
        steps: tuple[Step | None, ...],
        batch: int,
        new: int,
        past: int,
        real_BT: torch.Tensor | None,
        device: torch.device,
        positions: Positions | None = None,
    ) -> None:
        self.steps, self.batch, self.new, self.past = steps, batch, new, past
        self.real_BT, self.device, self.positions = real_BT, device, positions
        self.decisions: Any = None
        self.visual_BN: torch.Tensor | None = None
        self.cached: tuple[torch.Tensor | None, ...] = ()
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
        positions: Positions | None = None,
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
            positions: Where rows stand; needed where they may close up, or scores go by them.
        """
        steps = (None,) * num_layers if route is None else compile_steps(route, device)
        real = None if attention_mask is None else attention_mask.to(device=device, dtype=torch.bool)
        if real is not None:
            # Padding on the right alone is hidden by causality: no row that counts comes after it.
            before = real[:, 1:] & ~real[:, :-1]
            hidden = not bool(before.any()) if past == 0 else bool(real.all())
            real = None if hidden else real
        frame = cls(steps, batch, new, past, real, device, positions)
        if route is not None:
            frame.visual_BN = route.layout.visual_BN
        if route is not None and any(layer.cached_BN is not None for layer in route.layers):
            frame.cached = tuple(layer.cached_BN for layer in route.layers)
        return frame

    def change(self, first: int, steps: Sequence[Step | None]) -> None:
        """Replaces what the layers from ``first`` on do: a decision was taken."""
        self.steps = (*self.steps[:first], *steps)
        # What was moved to other devices holds the former steps; keys and masks go by the sets they are of.
        self._memo = {key: value for key, value in self._memo.items() if key[0] != "to"}

    def to(self, device: torch.device) -> Frame:
        """The same forward for layers on another device (models split over devices)."""
        if device == self.device:
            return self
        return self.remember(("to", device), (), lambda: self._moved(device))

    def _moved(self, device: torch.device) -> Frame:
        there: dict[int, RowIndex] = {}

        def moved(rows: RowIndex | None) -> RowIndex | None:
            return None if rows is None else there.setdefault(id(rows), rows.on(device))

        def shifted(moves: Moves | None) -> Moves | None:
            if moves is None:
                return None
            return gone.setdefault(id(moves), Moves(moves.before_BN.to(device), moves.total_B1.to(device)))

        gone: dict[int, Moves] = {}
        steps = {
            id(s): Step(
                moved(s.alive), moved(s.query), moved(s.ffn), moved(s.narrow), shifted(s.moves), s.unpadded
            )
            for s in self.steps
            if s is not None
        }
        real = None if self.real_BT is None else self.real_BT.to(device)
        positions = None if self.positions is None else self.positions.on(device)
        return Frame(
            tuple(steps.get(id(s)) for s in self.steps),
            self.batch,
            self.new,
            self.past,
            real,
            device,
            positions,
        )

    def rotary(self, step: Step, held: KeyRows | None, stock: Rotary, exact: bool = False) -> Rotary:
        """Rotary tables of the new rows in a layer: the stock ones, or those of positions that closed up.

        Args:
            step: What the layer does.
            held: Rows that the layer's cache holds already (those of this forward may be among them).
            stock: What the stock loop hands to its layers.
            exact: In float32 at least, for scores; layers turn in the type of the stock tables.
        """
        exact = exact and stock[0].dtype.itemsize < 4
        past = None if held is None else held.shift(self.past)
        if past is None and step.moves is None and not exact:
            return stock
        shifts = None if held is None else held.shifts
        return self.remember(
            ("rotary", id(shifts), id(step.moves), exact),
            (shifts, step.moves),
            lambda: self._closed_up(past, step.moves, exact),
        )

    def _closed_up(self, past_B1: torch.Tensor | None, moves: Moves | None, exact: bool) -> Rotary:
        assert self.positions is not None
        at = self.positions.ids_BN
        at = at if past_B1 is None else at - past_B1.to(at.device)
        return self.positions.rotate(at if moves is None else at - moves.before_BN, exact)

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
            ("keys", id(held), id(step.alive), id(step.moves)),
            (held, step.alive, step.moves),
            lambda: self._append(held, step),
        )

    def _append(self, held: KeyRows | None, step: Step) -> KeyRows:
        alive, fresh = step.alive, self._ids(step.alive)
        gapless = alive is None or alive.valid_BR is None
        shifts = () if step.moves is None else (self._shift(step.moves),)
        if held is None:
            return KeyRows(fresh, False, gapless, shifts)
        # Columns come in the order in which the cache appends them: those it held, then this forward's.
        wide = max(held.ids_BK.shape[0], fresh.shape[0])
        ids = torch.cat([held.ids_BK.expand(wide, -1), fresh.expand(wide, -1)], dim=1)
        return KeyRows(ids, False, gapless and held.gapless, (*held.shifts, *shifts), held.left)

    def _shift(self, moves: Moves) -> Shift:
        return Shift(self.past, self.past + self.new, moves.total_B1)

    def _ids(self, rows: RowIndex | None) -> torch.Tensor:
        if rows is None:
            return torch.arange(self.past, self.past + self.new, device=self.device)[None]
        ids = rows.index_BR + self.past
        return ids if rows.valid_BR is None else ids.masked_fill(~rows.valid_BR, -1)

    def calls(self, step: Step, keys: KeyRows) -> tuple[AttentionCall, ...]:
        """The attention calls of a layer: causal squares and suffixes where they serve, else a masked one."""
        key = ("calls", id(step.query), id(step.alive), id(keys))
        return self.remember(key, (step.query, step.alive, keys), lambda: self._calls(step, keys))

    def _calls(self, step: Step, keys: KeyRows) -> tuple[AttentionCall, ...]:
        count = self.new if step.query is None else step.query.count
        total = keys.ids_BK.shape[1]
        same = step.query is step.alive
        if same and step.unpadded and self.past == 0:
            # Dropped rows and padding are in no set, so the packed rows are a prompt of their own: a square.
            return (self._causal(0, count, count, 0),)
        if self.real_BT is None:
            if keys.dense or (same and self.past == 0):
                everything = self._all_rows()
                split = blocks(step.query or everything, step.alive or everything, self.past, same)
                if split is not None:
                    return tuple(self._causal(b.start, b.stop, b.keys, b.offset) for b in split)
            elif self.new == 1 and keys.gapless:
                # One new token sees all that is cached, whichever rows those are.
                return (AttentionCall(0, count, total, None, False),)
        return (AttentionCall(0, count, total, self.mask(step.query, keys), False),)

    def _all_rows(self) -> RowIndex:
        """Every new row, as a shape for ``blocks``: nothing is gathered by it."""
        none = torch.empty(0)
        return RowIndex(self.batch, self.new, self.new, ((0, self.new),), none, None, none, none)

    def _causal(self, start: int, stop: int, keys: int, offset: int) -> AttentionCall:
        if offset == 0 and keys == stop - start:
            return AttentionCall(start, stop, keys, None, keys > 1)
        if stop - start == 1:
            return AttentionCall(start, stop, keys, None, False)
        # The kernel's causal flag is aligned to the top left: queries at the end of more keys need a mask.
        mask = torch.ones(stop - start, keys, dtype=torch.bool, device=self.device).tril(offset)
        return AttentionCall(start, stop, keys, mask, False)

    def mask(self, query: RowIndex | None, keys: KeyRows) -> torch.Tensor:
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
