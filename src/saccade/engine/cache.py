"""A KV cache layer that holds fewer rows than the sequence, and knows which; and layers that hold states.

Shape letters: B batch, K cached rows, H key/value heads, D head width.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer, LinearAttentionLayer

Derived = TypeVar("Derived")


@dataclass(frozen=True, eq=False)
class Shift:
    """How far positions closed up in one forward, for every row that comes later.

    Attributes:
        start: First row of that forward in the full sequence.
        stop: End of its rows.
        by_B1: Rows that were dropped of each sample; B may be 1.
    """

    start: int
    stop: int
    by_B1: torch.Tensor


@dataclass(eq=False)
class KeyRows:
    """Which rows of the full sequence the columns of a layer's keys are; layers of equal history share one.

    Attributes:
        ids_BK: Row numbers in the full sequence, -1 in columns that pad a shorter sample; B may be 1.
        dense: Whether this is simply every row from the first one on, in order.
        padding: Columns, at most, that are padding of a sample.
        shifts: Where positions closed up.
        left: Where rows left once their forward was over (skip KV-cache): the first that did, and the end of
            that forward.
        moved_BK: How far each column's position has closed up, where a window goes by that; None if not.
        first: Row of the full sequence that the first column is, where they are dense.
    """

    ids_BK: torch.Tensor
    dense: bool
    padding: int
    shifts: tuple[Shift, ...] = ()
    left: tuple[tuple[int, int], ...] = ()
    moved_BK: torch.Tensor | None = None
    first: int = 0
    _derived: dict[str, tuple[Any, Any]] = field(default_factory=dict, repr=False)

    @classmethod
    def every(cls, total: int, device: torch.device, first: int = 0) -> KeyRows:
        """All rows from ``first`` to ``total - 1``."""
        return cls(torch.arange(first, total, device=device)[None], True, 0, first=first)

    @property
    def gapless(self) -> bool:
        """Whether no column is padding."""
        return self.padding == 0

    def last(self, count: int) -> KeyRows:
        """The last columns."""
        start = self.ids_BK.shape[1] - count
        moved = None if self.moved_BK is None else self.moved_BK[:, start:]
        first = self.first + start if self.dense else 0
        return replace(self, ids_BK=self.ids_BK[:, start:], moved_BK=moved, first=first, _derived={})

    def derive(self, kind: str, by: Any, change: Callable[[KeyRows], Derived]) -> Derived:
        """What a change of the cache makes of these rows; computed once for all layers that share them."""
        held = self._derived.get(kind)
        if held is None or not (held[0] is by or (isinstance(by, int) and held[0] == by)):
            held = self._derived[kind] = (by, change(self))
        return held[1]

    def rebatch(self, change: Callable[[torch.Tensor], torch.Tensor]) -> KeyRows:
        """The rows after samples were selected or repeated."""
        shifts = tuple(replace(s, by_B1=change(s.by_B1)) if s.by_B1.shape[0] > 1 else s for s in self.shifts)
        moved = self.moved_BK if self.moved_BK is None or len(self.moved_BK) == 1 else change(self.moved_BK)
        return KeyRows(change(self.ids_BK), self.dense, self.padding, shifts, self.left, moved, self.first)

    def shift(self, before: int) -> torch.Tensor | None:
        """How much lower than its row number a row's position is, (B, 1), from forwards that began earlier.

        Args:
            before: First row of the forward that asks.
        """
        parts = [s.by_B1 for s in self.shifts if s.start < before]
        return sum(parts[1:], parts[0]) if parts else None

    def crop(self, length: int) -> tuple[KeyRows, torch.Tensor]:
        """Rows below ``length``, and the indices of the columns that stay.

        Raises:
            ValueError: If the cut falls within a prompt whose positions closed up, or whose rows have left.
        """
        if any(s.start < length < s.stop for s in self.shifts):
            raise ValueError(
                "this cache cannot be cropped inside a prompt whose positions closed up; crop after it, "
                "or take position_policy=keep"
            )
        if any(first < length < stop for first, stop in self.left):
            raise ValueError(
                "this cache cannot be cropped inside a prompt whose skipped rows have left it: the rest of a "
                "prompt attends to them; crop after it, or keep them (cache=none)"
            )
        shifts = tuple(s for s in self.shifts if s.stop <= length)
        left = tuple(one for one in self.left if one[1] <= length)
        ids = self.ids_BK.masked_fill(self.ids_BK >= length, -1)
        # A column goes once it is of no sample any more; until then it pads the others.
        stay = (ids >= 0).any(0)
        kept = ids[:, stay]
        padding = int((kept < 0).sum(1).max()) if kept.numel() else 0
        moved = None if self.moved_BK is None else self.moved_BK[:, stay]
        rows = KeyRows(kept, self.dense, padding, shifts, left, moved, self.first)
        return rows, stay.nonzero()[:, 0]


class RaggedLayer(DynamicLayer):
    """Cache layer with a logical length (the full sequence) and fewer physical rows.

    The engine announces the rows of each update (``expect``), so stock code that appends to it unannounced
    is told that the cache belongs to a plan. Where the layer it stands for has a sliding window, it lets go
    of columns as that does.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rows: KeyRows | None = None
        self.logical = 0
        self._expected: tuple[KeyRows, int] | None = None
        self.window: int | None = None
        self.record_past = False

    @classmethod
    def adopt(cls, layer: DynamicLayer, rows: KeyRows) -> RaggedLayer:
        """Takes over what a stock layer holds."""
        ragged = cls()
        if isinstance(layer, DynamicSlidingWindowLayer):
            ragged.window, ragged.record_past = layer.sliding_window, layer.record_past
        if layer.is_initialized and layer.get_seq_length():
            # An offloaded layer computes on another device than the one its tensors lie on now.
            ragged.dtype, ragged.device, ragged.is_initialized = layer.dtype, layer.device, True
            ragged.keys, ragged.values = layer.keys, layer.values
            ragged.rows, ragged.logical = rows, layer.get_seq_length()
        return ragged

    def expect(self, rows: KeyRows, logical: int) -> None:
        """Announces the rows that the layer will hold after the next update."""
        self._expected = (rows, logical)

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs):
        """Appends keys and values (B, H, new, D) and returns all that are held.

        Raises:
            ValueError: If the update was not announced by a saccade engine.
        """
        if self._expected is None:
            raise ValueError(
                "this KV cache was filled under a saccade plan that drops rows; "
                "apply that plan to continue it, or start a new cache"
            )
        (self.rows, self.logical), self._expected = self._expected, None
        held = super().update(key_states, value_states, *args, **kwargs)
        if not self.record_past:
            self._slide()
        return held

    def _slide(self) -> None:
        """Lets go of columns that no later row sees."""
        if self.window is None or self.rows is None or self.logical < self.window:
            return
        assert self.keys is not None and self.values is not None
        count, start = self.keys.shape[2], self.keys.shape[2] - (self.window - 1 + self.rows.padding)
        if start > 0:
            self.rows = self.rows.derive("last", count - start, lambda rows: rows.last(count - start))
            self.keys, self.values = self.keys[:, :, start:], self.values[:, :, start:]

    def activate_past_recording(self) -> None:
        """From now on columns outside a window are kept until the next ``crop``."""
        self.record_past = True

    def get_seq_length(self) -> int:
        """Length of the full sequence, dropped rows included."""
        return self.logical

    def crop(self, tokens_to_remove: int) -> None:
        """Removes the last rows of the full sequence (a negative number; on old versions a final length).

        Raises:
            ValueError: If rows that would be seen again have left, or positions closed up, inside what goes.
        """
        if not self.is_initialized or self.rows is None or tokens_to_remove == 0:
            return self._slide()
        if self.window is not None and self.logical >= self.window and not self.record_past:
            raise ValueError(
                f"this cache has let go of what a window of {self.window} rows no longer shows, so it cannot "
                "be cropped; call its activate_past_recording() before the rows that are to be removed again"
            )
        final = tokens_to_remove + self.logical if tokens_to_remove < 0 else tokens_to_remove
        if final <= 0:
            return self.reset()
        final = min(final, self.logical)
        rows, stay = self.rows.derive("crop", final, lambda rows: rows.crop(final))
        self.rows, self.logical = rows, final
        assert self.keys is not None and self.values is not None
        self.keys, self.values = self.keys[:, :, stay], self.values[:, :, stay]
        self._slide()

    def shrink(self, rows: KeyRows, take: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Keeps some of the columns; the logical length stays.

        Args:
            rows: Which rows are left.
            take: Picks their columns.
        """
        assert self.keys is not None and self.values is not None
        self.rows, self.keys, self.values = rows, take(self.keys), take(self.values)

    def reset(self) -> None:
        """Empties the layer."""
        self.keys = self.values = None
        self.is_initialized = False
        self.rows, self.logical, self._expected = None, 0, None

    def _rebatch(self, kind: str, by: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        if self.rows is not None and self.rows.ids_BK.shape[0] > 1:
            self.rows = self.rows.derive(kind, by, lambda rows: rows.rebatch(change))

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Reorders samples for beam search, row numbers included."""
        super().reorder_cache(beam_idx)
        self._rebatch("select", beam_idx, lambda ids: ids.index_select(0, beam_idx.to(ids.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeats every sample, row numbers included."""
        super().batch_repeat_interleave(repeats)
        self._rebatch("repeat", repeats, lambda ids: ids.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keeps some samples, row numbers included."""
        super().batch_select_indices(indices)
        self._rebatch("select", indices, lambda ids: ids[indices])


CACHE_LAYERS = (DynamicLayer, DynamicSlidingWindowLayer, LinearAttentionLayer, RaggedLayer)
"""Kinds of cache layers that a routed forward can fill."""


def ragged_layer(cache: Cache, number: int) -> RaggedLayer | None:
    """The ragged layer of a cache at this depth, if it is one."""
    layer = cache.layers[number] if number < len(cache.layers) else None
    return layer if isinstance(layer, RaggedLayer) else None


def make_ragged(cache: Cache, number: int, rows: KeyRows) -> RaggedLayer:
    """Swaps a layer of a cache in place for a ragged one that holds the same rows."""
    # Caches make their layers as these are first filled, and an earlier layer may not have been.
    while len(cache.layers) <= number:
        cache.layers.append(DynamicLayer())
    layer: Any = cache.layers[number]
    if not isinstance(layer, RaggedLayer):
        layer = cache.layers[number] = RaggedLayer.adopt(layer, rows)
    return layer


def keep_past(cache: Cache | None, number: int, keep: bool) -> bool:
    """Lets a layer with a sliding window keep what that hides, while it is looked at; and no longer.

    Returns:
        Whether that changed anything.
    """
    layer: Any = None if cache is None or number >= len(cache.layers) else cache.layers[number]
    if not isinstance(layer, DynamicSlidingWindowLayer | RaggedLayer) or layer.record_past == keep:
        return False
    if not keep:
        layer.crop(0)
    layer.record_past = keep
    return True


def cache_in(values: Iterable[Any]) -> Cache | None:
    """The cache among what a decoder returned, or None."""
    return next((value for value in values if isinstance(value, Cache)), None)


def kv_lengths(cache: Cache) -> list[int]:
    """Rows that each layer of a cache physically holds (of the longest sample)."""
    return [kv_length(cache, number) for number in range(len(cache.layers))]


def kv_length(cache: Cache, number: int) -> int:
    """Rows that one layer of a cache physically holds; it may be yet to be made."""
    if number >= len(cache.layers):
        return 0
    layer: Any = cache.layers[number]
    if isinstance(layer, LinearAttentionLayer):
        return 0
    return 0 if layer.keys is None or layer.keys.ndim < 4 else layer.keys.shape[-2]


def kv_bytes(cache: Cache) -> int:
    """Bytes of the keys and values that a cache physically holds."""
    layers: list[Any] = [layer for layer in cache.layers if not isinstance(layer, LinearAttentionLayer)]
    held = [t for layer in layers for t in (layer.keys, layer.values) if t is not None]
    return sum(t.numel() * t.element_size() for t in held)


STATES = ("conv_states", "recurrent_states")
"""What a layer without keys holds, each by its number."""


def has_state(cache: Cache, number: int) -> bool:
    """Whether a layer without keys has been told of any row."""
    layer: Any = cache.layers[number] if number < len(cache.layers) else None
    return layer is not None and any(layer.has_previous_state.values())


def states_of(cache: Cache, number: int, samples: torch.Tensor) -> Cache:
    """A cache with copies of some samples' states in one layer; its other layers are the same objects."""
    found = copy.copy(cache)
    part = some_states(cache.layers[number], samples)
    found.layers = [*cache.layers[:number], part, *cache.layers[number + 1 :]]
    return found


def some_states(layer: Any, samples: torch.Tensor) -> Any:
    """A layer without keys that holds copies of some samples' states."""

    def taken(x: torch.Tensor) -> torch.Tensor:
        return x.index_select(0, samples.to(x.device))

    return _with_states(layer, lambda name, n: taken(getattr(layer, name)[n]))


def joined_states(layers: Sequence[Any]) -> Any:
    """Layers without keys as one, their samples in order."""
    return _with_states(layers[0], lambda name, n: torch.cat([getattr(layer, name)[n] for layer in layers]))


def _with_states(layer: Any, state: Callable[[str, int], torch.Tensor]) -> Any:
    made = copy.copy(layer)
    for name in STATES:
        held = getattr(layer, name).items()
        setattr(made, name, {n: None if x is None else state(name, n) for n, x in held})
    # What was noted of a state is noted of its copy.
    for name, value in vars(layer).items():
        if isinstance(value, dict) and name not in STATES:
            setattr(made, name, dict(value))
    return made


def states_back(cache: Cache, number: int, samples: torch.Tensor, part: Cache) -> None:
    """Puts the states of some samples back in their places (``states_of``)."""
    layer, other = cache.layers[number], part.layers[number]
    for name in STATES:
        for n, x in getattr(layer, name).items():
            if x is not None:
                x.index_copy_(0, samples.to(x.device), getattr(other, name)[n])
