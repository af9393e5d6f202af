"""Caches of several prompts as one batch, and parts of a batch's cache as caches of their own.

Prompts that began at different times decode together so: each is padded on its left to the length of the
longest, and a mask hides the padding. Rows that a plan dropped stay dropped, sample by sample. States of
recurrent layers, which know no lengths, stand side by side as they are.

Shape letters: B batch, K cached rows, H key/value heads, D head width.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from saccade.engine.cache import (
    Cache,
    DynamicLayer,
    KeyRows,
    LinearAttentionLayer,
    RaggedLayer,
    Shift,
    joined_states,
    some_states,
)

JOINED = (DynamicLayer, LinearAttentionLayer)


def joins(cache: Cache) -> bool:
    """Whether every layer holds its rows in a way that can be joined; not where windows slide over them."""
    return all(
        layer.window is None if isinstance(layer, RaggedLayer) else type(layer) in JOINED
        for layer in cache.layers
    )


def parts(cache: Cache) -> bool:
    """Whether the beginning of a prompt can be taken out of it: not where layers hold states of the whole."""
    return not any(isinstance(layer, LinearAttentionLayer) for layer in cache.layers)


def join(caches: Sequence[Cache]) -> Cache:
    """One cache of all samples in order, each padded on its left to the length of the longest.

    Args:
        caches: Caches of one model for which ``joins`` holds; at least one, and none of them empty.
    """
    if len(caches) == 1:
        return caches[0]
    lengths = [cache.get_seq_length() for cache in caches]
    offsets = [max(lengths) - length for length in lengths]
    rows: dict[tuple[int, ...], KeyRows] = {}
    every = [KeyRows.every(length, _device(cache)) for cache, length in zip(caches, lengths, strict=True)]
    found = []
    for layers in zip(*(cache.layers for cache in caches), strict=True):
        if isinstance(layers[0], LinearAttentionLayer):
            found.append(joined_states(layers))
            continue
        if not any(isinstance(layer, RaggedLayer) for layer in layers):
            found.append(_stacked(layers, offsets))
            continue
        held = [_rows_of(layer, whole) for layer, whole in zip(layers, every, strict=True)]
        key = tuple(map(id, held))
        if key not in rows:
            rows[key] = _joined(held, offsets, [_samples(layer) for layer in layers], max(lengths))
        columns = [one.ids_BK.shape[1] for one in held]
        stacked = _stacked(layers, [max(columns) - count for count in columns])
        found.append(_ragged(stacked, rows[key], max(lengths)))
    return Cache(layers=found)


def part(cache: Cache, samples: Sequence[int], start: int, stop: int) -> Cache:
    """Rows ``start`` to ``stop`` of some samples, as a cache of its own that shares no memory.

    Args:
        cache: A cache for which ``joins`` holds.
        samples: Which samples, in order.
        start: First row of the full sequence; rows before it are padding of these samples.
        stop: End of the rows. Visual rows lie before it, so that positions behind it have closed up by
            whatever a plan dropped.

    Where layers hold states (``parts``) the rows have to reach to the end, and nothing but padding of these
    samples may lie before them.
    """
    taken = torch.tensor(list(samples), device=_device(cache))
    rows: dict[int, tuple[KeyRows, torch.Tensor]] = {}
    found = []
    layers: list[Any] = cache.layers
    for layer in layers:
        if isinstance(layer, LinearAttentionLayer):
            found.append(some_states(layer, taken))
            continue
        if not isinstance(layer, RaggedLayer):
            found.append(_like(layer, taken, torch.arange(start, stop, device=taken.device)))
            continue
        held, keys = layer.rows, layer.keys
        assert held is not None and keys is not None
        if id(held) not in rows:
            rows[id(held)] = _within(held, len(keys), taken, start, stop)
        kept, columns = rows[id(held)]
        found.append(_ragged(_like(layer, taken, columns), kept, stop - start))
    return Cache(layers=found)


def _device(cache: Cache) -> torch.device:
    layers: list[Any] = [layer for layer in cache.layers if not isinstance(layer, LinearAttentionLayer)]
    return layers[0].keys.device


def _samples(layer: Any) -> int:
    return len(layer.keys)


def _rows_of(layer: Any, every: KeyRows) -> KeyRows:
    rows = layer.rows if isinstance(layer, RaggedLayer) else every
    assert rows is not None
    return rows


def _like(layer: Any, samples: torch.Tensor, columns: torch.Tensor) -> Any:
    """A layer of the same kind with copies of some samples' columns."""
    made = copy.copy(layer)
    samples, columns = samples.to(layer.keys.device), columns.to(layer.keys.device)
    made.keys = layer.keys.index_select(0, samples).index_select(2, columns)
    made.values = layer.values.index_select(0, samples).index_select(2, columns)
    return made


def _stacked(layers: Sequence[Any], offsets: Sequence[int]) -> Any:
    """Samples of several layers in one, with so many columns of zeros before each."""

    def padded(tensors: Iterable[torch.Tensor]) -> torch.Tensor:
        return torch.cat([F.pad(x, (0, 0, offset, 0)) for x, offset in zip(tensors, offsets, strict=True)])

    made = copy.copy(layers[0])
    made.keys, made.values = padded(layer.keys for layer in layers), padded(layer.values for layer in layers)
    return made


def _ragged(layer: Any, rows: KeyRows, logical: int) -> RaggedLayer:
    ragged = layer if isinstance(layer, RaggedLayer) else RaggedLayer.adopt(layer, rows)
    ragged.rows, ragged.logical = rows, logical
    return ragged


def _joined(held: Sequence[KeyRows], offsets: Sequence[int], batches: Sequence[int], total: int) -> KeyRows:
    """Row numbers of the joined samples, in a sequence of ``total`` rows."""
    wide = max(one.ids_BK.shape[1] for one in held)
    ids = []
    for one, offset, batch in zip(held, offsets, batches, strict=True):
        moved = torch.where(one.ids_BK < 0, one.ids_BK, one.ids_BK + offset).expand(batch, -1)
        ids.append(F.pad(moved, (wide - moved.shape[1], 0), value=-1))
    by_B1 = torch.cat([_closed_up(one, batch) for one, batch in zip(held, batches, strict=True)])
    return _past(torch.cat(ids), held, by_B1, total)


def _past(ids_BK: torch.Tensor, held: Sequence[KeyRows], by_B1: torch.Tensor, total: int) -> KeyRows:
    """Rows of a sequence of which everything is over: what happened to it counts as one forward."""
    padding = int((ids_BK < 0).sum(1).max())
    shifts = (Shift(0, total, by_B1),) if any(one.shifts for one in held) else ()
    left = ((0, total),) if any(one.left for one in held) else ()
    return KeyRows(ids_BK, False, padding, shifts, left)


def _closed_up(rows: KeyRows, batch: int) -> torch.Tensor:
    """By how much positions have closed up in every sample (B, 1), forwards added up."""
    none = torch.zeros(batch, 1, dtype=torch.long, device=rows.ids_BK.device)
    return sum((shift.by_B1.to(none.device).expand(batch, 1) for shift in rows.shifts), none)


def _within(
    rows: KeyRows, batch: int, samples: torch.Tensor, start: int, stop: int
) -> tuple[KeyRows, torch.Tensor]:
    """Row numbers of a part, and the columns that hold some row of it."""
    samples = samples.to(rows.ids_BK.device)
    ids = rows.ids_BK.expand(batch, -1).index_select(0, samples)
    inside = (ids >= start) & (ids < stop)
    columns = inside.any(0).nonzero()[:, 0]
    kept = torch.where(inside, ids - start, -1).index_select(1, columns)
    by_B1 = _closed_up(rows, batch).index_select(0, samples)
    return _past(kept, [rows], by_B1, stop - start), columns
