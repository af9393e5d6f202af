"""One forward's program, made ready: index tensors once per distinct row set, masks once per distinct pair.

Shape letters: B batch, N new rows, Q query rows, K cached keys, T rows of the full sequence.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from saccade.core.calls import Block, blocks
from saccade.core.route import Route
from saccade.core.rows import RowIndex
from saccade.core.sight import CAUSAL, Sight
from saccade.engine.cache import KeyRows, Shift
from saccade.engine.steps import Moves, Step, compile_steps
from saccade.families import Family, Rotary


@dataclass(frozen=True, eq=False)
class Positions:
    """Rotary positions of the new rows.

    Attributes:
        ids_BN: The stock model's positions; B may be 1, and axes (mRoPE) come before it.
        rotate: Makes rotary tables of positions, in the model's type or in float32, for a kind of layer.
        numbered: Kinds of layers whose tables go by row numbers (``Family.numbered``).
    """

    ids_BN: torch.Tensor
    rotate: Callable[[torch.Tensor, bool, str | None], Rotary]
    numbered: tuple[str, ...] = ()

    def on(self, device: torch.device) -> Positions:
        """The same on another device."""

        def rotate(at: torch.Tensor, exact: bool, kind: str | None) -> Rotary:
            return tuple(part.to(device) for part in self.rotate(at.to(self.ids_BN.device), exact, kind))

        return Positions(self.ids_BN.to(device), rotate, self.numbered)


@dataclass(frozen=True)
class AttentionCall:
    """One attention call: packed query rows ``start:stop`` over the keys ``first:keys``."""

    start: int
    stop: int
    first: int
    keys: int
    mask: torch.Tensor | None
    causal: bool


_STOCK = Step()


class Frame:
    """Everything the layers need to know about one forward; it travels with the call, never with the model.

    Attributes:
        steps: What each layer does, None where it is the stock layer.
        batch: Samples.
        new: Rows of this forward.
        past: Rows of the full sequence before it.
        real_BT: False where a row of the full sequence is padding; None where causality hides all padding.
        sights: For every layer who sees whom in it; equal ones are one object.
        positions: Where rows stand and how that becomes rotary tables; None where nothing is decided
            on the way.
        decisions: The stages of this forward (``Decisions``), or None.
        visual_BN: Visual rows, on the host; None where no new row is visual.
        cached: For every layer the rows of this forward that stay in the cache once it is over, on the host;
            None where all that are alive stay. Empty if that holds for every layer.
        padding_BT: The 2-D mask of the forward, 0 at padding, or None.
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
        sights: tuple[Sight, ...] = (),
    ) -> None:
        self.sights = sights or (CAUSAL,) * len(steps)
        self.steps, self.batch, self.new, self.past = steps, batch, new, past
        self.real_BT, self.device, self.positions = real_BT, device, positions
        self.decisions: Any = None
        self.visual_BN: torch.Tensor | None = None
        self.cached: tuple[torch.Tensor | None, ...] = ()
        self.padding_BT: torch.Tensor | None = None
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
        sights: tuple[Sight, ...] = (),
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
            sights: For every layer who sees whom in it; causal if omitted.
        """
        steps = (None,) * num_layers if route is None else compile_steps(route, device)
        real = None if attention_mask is None else attention_mask.to(device=device, dtype=torch.bool)
        if real is not None:
            # Padding on the right alone is hidden by causality: no row that counts comes after it.
            before = real[:, 1:] & ~real[:, :-1]
            hidden = not bool(before.any()) if past == 0 else bool(real.all())
            real = None if hidden else real
        frame = cls(steps, batch, new, past, real, device, positions, sights)
        frame.padding_BT = attention_mask
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

    def on(self, device: torch.device) -> Frame:
        """The same forward for layers on another device (models split over devices), without its decisions.

        It is not called ``to``: accelerate's hooks call that on what a decoder is given, which would then
        go on with the copy, in which nothing is decided.
        """
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
        frame = Frame(
            tuple(steps.get(id(s)) for s in self.steps),
            self.batch,
            self.new,
            self.past,
            real,
            device,
            positions,
            self.sights,
        )
        frame.padding_BT = self.padding_BT
        return frame

    def tables(self, family: Family, attn: Any, stock: Any) -> Rotary:
        """What the stock loop hands to a layer, as tables of the new rows."""
        key = ("tables", id(stock), family.rotary_kind(attn))
        return self.remember(key, (stock,), lambda: family.tables(attn, stock, lambda: self._ids(None)))

    def rotary(
        self,
        step: Step,
        held: KeyRows | None,
        stock: Rotary,
        exact: bool = False,
        kind: str | None = None,
    ) -> Rotary:
        """Rotary tables of the new rows in a layer: the stock ones, or those of positions that closed up.

        Args:
            step: What the layer does.
            held: Rows that the layer's cache holds already (those of this forward may be among them).
            stock: What the stock loop hands to its layers.
            exact: In float32 at least, for scores; layers turn in the type of the stock tables.
            kind: Kind of the layer, where kinds turn differently.
        """
        exact = exact and stock[0].dtype.itemsize < 4
        past = None if held is None else held.shift(self.past)
        if past is None and step.moves is None and not exact:
            return stock
        shifts = None if held is None else held.shifts
        return self.remember(
            ("rotary", id(shifts), id(step.moves), exact, kind),
            (shifts, step.moves),
            lambda: self._closed_up(past, step.moves, exact, kind),
        )

    def _closed_up(
        self, past_B1: torch.Tensor | None, moves: Moves | None, exact: bool, kind: str | None
    ) -> Rotary:
        assert self.positions is not None
        at = self.positions.ids_BN if kind not in self.positions.numbered else self._ids(None)
        at = at if past_B1 is None else at - past_B1.to(at.device)
        return self.positions.rotate(at if moves is None else at - moves.before_BN, exact, kind)

    def remember(self, key: tuple, owners: tuple, make: Callable[[], Any]) -> Any:
        """Computes a value once per frame; ``owners`` keeps alive the objects whose ids are in the key."""
        if key not in self._memo:
            self._memo[key] = (make(), owners)
        return self._memo[key][0]

    def every(self, total: int, first: int = 0) -> KeyRows:
        """Key rows of a cache in which nothing was dropped, but what a window hides for good."""
        return self.remember(("every", total, first), (), lambda: KeyRows.every(total, self.device, first))

    def entering(self, step: Step) -> RowIndex | None:
        """Rows that enter the state of a recurrent layer: those alive that are no padding; all if None."""
        if self.padding_BT is None or self.new == 1 or (step.alive is not None and step.unpadded):
            return step.alive
        return self.remember(("entering", id(step.alive)), (step.alive,), lambda: self._entering(step.alive))

    def _entering(self, alive: RowIndex | None) -> RowIndex | None:
        assert self.padding_BT is not None
        real_BN = self.padding_BT[:, self.past :].bool().cpu()
        if alive is None and not self.past and not bool((real_BN[:, :-1] & ~real_BN[:, 1:]).any()):
            # Before all rows it writes nothing: the stock layer may have it.
            return None
        mask_BN = real_BN if alive is None else real_BN & alive.mask_BN.cpu()
        if alive is not None and bool((mask_BN == alive.mask_BN.cpu()).all()):
            return alive
        return None if bool(mask_BN.all()) else RowIndex.from_mask(mask_BN).on(self.device)

    def held(self, count: int) -> KeyRows:
        """Key rows of a stock layer that holds so many once this forward's are in it."""
        total = self.past + self.new
        return self.every(total, total - count)

    def keys(self, held: KeyRows | None, step: Step) -> KeyRows:
        """Key rows of a layer after this forward's alive rows were appended to those it held."""
        if step.alive is None and (held is None or held.dense):
            return self.every(self.past + self.new, 0 if held is None else held.first)
        return self.remember(
            ("keys", id(held), id(step.alive), id(step.moves)),
            (held, step.alive, step.moves),
            lambda: self._append(held, step),
        )

    def _append(self, held: KeyRows | None, step: Step) -> KeyRows:
        fresh, padding = self._ids(step.alive), 0 if step.alive is None else step.alive.padding
        shifts = () if step.moves is None else (self._shift(step.moves),)
        moved = self._moved_up(held, step, step.alive)
        if held is None:
            return KeyRows(fresh, False, padding, shifts, moved_BK=moved)
        ids, before = _joined(held.ids_BK, fresh), held.moved_BK
        if before is not None or moved is not None:
            none = torch.zeros_like(held.ids_BK[:1])
            moved = _joined(none if before is None else before, fresh * 0 if moved is None else moved)
        return KeyRows(ids, False, padding + held.padding, (*held.shifts, *shifts), held.left, moved)

    def _moved_up(self, held: KeyRows | None, step: Step, rows: RowIndex | None) -> torch.Tensor | None:
        """How far the positions of new rows have closed up, where a window goes by that."""
        past = None if held is None else held.shift(self.past)
        if (past is None and step.moves is None) or not self._windowed:
            return None
        moved = torch.zeros(1, self.new, dtype=torch.long, device=self.device)
        moved = moved if past is None else moved + past.to(self.device)
        moved = moved if step.moves is None else moved + step.moves.before_BN
        return moved if rows is None else moved.expand(len(rows.index_BR), -1).gather(1, rows.index_BR)

    @functools.cached_property
    def _windowed(self) -> bool:
        return any(sight.slides(self.past + self.new) for sight in dict.fromkeys(self.sights))

    def _shift(self, moves: Moves) -> Shift:
        return Shift(self.past, self.past + self.new, moves.total_B1)

    def _ids(self, rows: RowIndex | None) -> torch.Tensor:
        if rows is None:
            return torch.arange(self.past, self.past + self.new, device=self.device)[None]
        if rows.slices is not None:
            return rows.index_BR[:1] + self.past
        ids = rows.index_BR + self.past
        return ids if rows.valid_BR is None else ids.masked_fill(~rows.valid_BR, -1)

    def calls(
        self, step: Step, keys: KeyRows, sight: Sight = CAUSAL, squares: bool = True
    ) -> tuple[AttentionCall, ...]:
        """The attention calls of a layer: those that kernels serve where they do, else masked ones.

        Args:
            step: What the layer does.
            keys: Which rows its keys are.
            sight: Who sees whom in it.
            squares: Whether calls may be causal without a mask that says so.
        """
        key = ("calls", id(step.query), id(step.alive), id(step.moves), id(keys), id(sight), squares)
        owners = (step.query, step.alive, step.moves, keys, sight)
        return self.remember(key, owners, lambda: self._calls(step, keys, sight, squares))

    def _calls(self, step: Step, keys: KeyRows, sight: Sight, squares: bool) -> tuple[AttentionCall, ...]:
        count = self.new if step.query is None else step.query.count
        total = keys.ids_BK.shape[1]
        alone = self.new == 1 and self.real_BT is None and keys.gapless
        if alone and (keys.dense or not sight.slides(self.past + 1)):
            # One new token sees all that is cached, whichever rows those are, but for what a window hides.
            reach = sight.reach(self.past)
            first = 0 if reach is None else max(0, total - reach)
            return (AttentionCall(0, count, first, total, None, False),)
        split = self._split(step, keys, sight)
        if split is None:
            return (AttentionCall(0, count, 0, total, self.mask(step.query, keys, sight, step), False),)
        return tuple(self._call(block, step, keys, sight, squares) for block in split)

    def _split(self, step: Step, keys: KeyRows, sight: Sight) -> tuple[Block, ...] | None:
        same = step.query is step.alive
        everything = self._all_rows()
        query, alive = step.query or everything, step.alive or everything
        if same and self.past == 0 and (step.unpadded or self.real_BT is None):
            # Dropped rows and padding are in no set, so the packed rows are a prompt of their own.
            return blocks(query, alive, same=True, sight=sight)
        if self.real_BT is None and keys.dense:
            return blocks(query, alive, self.past, sight=sight, first=keys.first)
        return None

    def _all_rows(self) -> RowIndex:
        """Every new row, as a shape for ``blocks``: nothing is gathered by it."""
        none = torch.empty(0)
        return RowIndex(self.batch, self.new, self.new, ((0, self.new),), none, None, none, none)

    def _call(self, block: Block, step: Step, keys: KeyRows, sight: Sight, squares: bool) -> AttentionCall:
        start, stop, first, last = block.start, block.stop, block.first, block.keys
        if block.kind == "all" or (block.kind == "square" and squares):
            return AttentionCall(start, stop, first, last, None, block.kind == "square")
        mask = self.mask(step.query, keys, sight, step, slice(start, stop), slice(first, last))
        return AttentionCall(start, stop, first, last, mask[0, 0] if len(mask) == 1 else mask, False)

    def mask(
        self,
        query: RowIndex | None,
        keys: KeyRows,
        sight: Sight = CAUSAL,
        step: Step = _STOCK,
        rows: slice = slice(None),
        columns: slice = slice(None),
    ) -> torch.Tensor:
        """Boolean (B or 1, 1, Q, K) by row numbers: seen, real, and every query sees at least itself.

        Args:
            query: Rows that ask; all new ones if None.
            keys: Rows that answer.
            sight: Who sees whom.
            step: What the layer does, for positions that closed up.
            rows: Which of the packed queries.
            columns: Which of the keys.
        """
        asks, answers = self._ids(query)[:, rows], keys.ids_BK[:, columns]
        seen: dict[str, Any] = {}
        held_BT = sight.block_BT
        if held_BT is not None:
            block_BT = self.remember(
                ("blocks", id(sight)), (sight,), lambda: held_BT.to(self.device, non_blocking=True)
            )
            seen["ask_block_BQ"], seen["answer_block_BK"] = (_blocks_of(block_BT, x) for x in (asks, answers))
        if keys.moved_BK is not None:
            moved = self._moved_up(keys, step, query)
            seen["moved"] = None if moved is None else moved[:, rows], keys.moved_BK[:, columns]
        mask = sight.seen(asks, answers, **seen)
        mask = mask & (answers >= 0)[:, None, :]
        if self.real_BT is not None:
            wide = answers.expand(self.real_BT.shape[0], -1)
            mask = mask & self.real_BT.gather(1, wide.clamp(min=0))[:, None, :]
            mask = mask | (answers[:, None, :] == asks[:, :, None]) & (asks >= 0)[:, :, None]
        # A query slot that only pads its sample sees everything, so that no softmax is over nothing.
        mask = mask | (asks < 0)[:, :, None]
        return mask[:, None]


def _joined(held: torch.Tensor, fresh: torch.Tensor) -> torch.Tensor:
    """Columns in the order in which the cache appends them: those it held, then this forward's."""
    wide = max(held.shape[0], fresh.shape[0])
    return torch.cat([held.expand(wide, -1), fresh.expand(wide, -1)], dim=1)


def _blocks_of(block_BT: torch.Tensor, ids_BR: torch.Tensor) -> torch.Tensor:
    """Blocks of rows by their numbers; -1 for a number that is none."""
    batch = max(len(block_BT), len(ids_BR))
    ids_BR = ids_BR.expand(batch, -1)
    return block_BT.expand(batch, -1).gather(1, ids_BR.clamp(min=0)).masked_fill(ids_BR < 0, -1)
