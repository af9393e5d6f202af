"""Row sets made ready for tensors: slices where they serve, gathers where they must (pure).

Shape letters: B batch, N rows, R selected rows (padded to the longest sample), T selected rows of all
samples together, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

MAX_SLICES = 8
"""Beyond this many unbroken runs one gather is cheaper than a concatenation of views."""


READABLE = ("cpu",)
"""Devices whose masks the host reads without waiting."""


@dataclass(frozen=True, eq=False)
class RowIndex:
    """A set of rows per sample.

    Attributes:
        batch: Number of samples.
        rows: Rows of the full sequence.
        count: Rows selected from each sample (of the longest one where counts differ).
        slices: Unbroken runs shared by every sample, or None where samples differ or runs are many.
        index_BR: Selected rows in ascending order, padded with row 0; None where ``slices`` serve.
        valid_BR: False at the padding of ``index_BR``; None where no sample is padded.
        flat_T: Selected rows of all samples in a (batch * rows) view.
        packed_T: Where each of ``flat_T`` sits in a (batch * count) view.
        padding: Slots that pad the sample with the fewest rows.
    """

    batch: int
    rows: int
    count: int
    slices: tuple[tuple[int, int], ...] | None
    index_BR: torch.Tensor
    valid_BR: torch.Tensor | None
    flat_T: torch.Tensor
    packed_T: torch.Tensor
    padding: int = 0

    @classmethod
    def from_mask(cls, mask_BN: torch.Tensor) -> RowIndex:
        """Reads the set off a boolean (batch, rows) mask on the CPU."""
        batch, rows = mask_BN.shape
        counts = mask_BN.sum(1)
        count = int(counts.max()) if batch else 0
        order = torch.argsort(~mask_BN, dim=1, stable=True)[:, :count]
        filled = torch.arange(count) < counts[:, None]
        index_BR = order.masked_fill(~filled, 0)
        flat = (index_BR + torch.arange(batch)[:, None] * rows)[filled]
        packed = torch.arange(batch * count).view(batch, count)[filled]
        slices = runs(mask_BN[0]) if batch and bool((mask_BN == mask_BN[0]).all()) else None
        if slices is not None and len(slices) > MAX_SLICES:
            slices = None
        valid, least = None if bool(filled.all()) else filled, int(counts.min()) if batch else 0
        return cls(batch, rows, count, slices, index_BR, valid, flat, packed, count - least)

    @classmethod
    def from_counts(cls, mask_BN: torch.Tensor, counts: Sequence[int]) -> RowIndex:
        """Reads the set off a mask on any device without waiting for it.

        Args:
            mask_BN: Boolean (batch, rows).
            counts: Rows in the set of every sample, known beforehand.
        """
        if mask_BN.device.type in READABLE:
            return cls.from_mask(mask_BN)
        batch, rows = mask_BN.shape
        count = max(counts, default=0)
        filled = torch.arange(count) < torch.tensor(counts)[:, None]
        packed = torch.arange(batch * count).view(batch, count)[filled].to(mask_BN.device, non_blocking=True)
        order = torch.argsort(~mask_BN, dim=1, stable=True)[:, :count]
        offsets = torch.arange(batch, device=mask_BN.device)[:, None] * rows
        flat = (order + offsets).flatten().index_select(0, packed)
        if all(one == count for one in counts):
            return cls(batch, rows, count, None, order, None, flat, packed)
        valid = filled.to(mask_BN.device, non_blocking=True)
        index_BR, padding = order.masked_fill(~valid, 0), count - min(counts)
        return cls(batch, rows, count, None, index_BR, valid, flat, packed, padding)

    def on(self, device: torch.device) -> RowIndex:
        """The same set with its index tensors on a device."""
        return replace(
            self,
            index_BR=self.index_BR.to(device, non_blocking=True),
            valid_BR=None if self.valid_BR is None else self.valid_BR.to(device, non_blocking=True),
            flat_T=self.flat_T.to(device, non_blocking=True),
            packed_T=self.packed_T.to(device, non_blocking=True),
        )

    def padded_before(self) -> RowIndex:
        """The same set with a sample of fewer rows padded before them, not after."""
        if self.valid_BR is None:
            return self
        order_BR = torch.argsort(self.valid_BR.int(), dim=1, stable=True)
        more_B = self.count - self.valid_BR.sum(1)
        return replace(
            self,
            index_BR=self.index_BR.gather(1, order_BR),
            valid_BR=self.valid_BR.gather(1, order_BR),
            packed_T=self.packed_T + more_B[self.packed_T // self.count],
        )

    @cached_property
    def wide_T(self) -> torch.Tensor:
        """``index_BR`` in a (batch * rows) view, padding slots included."""
        if self.valid_BR is None:
            return self.flat_T
        starts = torch.arange(self.batch, device=self.index_BR.device)[:, None] * self.rows
        return (self.index_BR + starts).reshape(-1)

    def take(self, x_BND: torch.Tensor) -> torch.Tensor:
        """The selected rows, (B, R, D); padding slots hold row 0. A view where one slice serves."""
        if self.slices is not None:
            if not _trains(x_BND):
                return _take(x_BND, self.slices)
            taken: torch.Tensor = _Take.apply(x_BND, self.slices)
            return taken
        # Whole rows are copied: a gather would look up every single number.
        if x_BND.shape[0] == 1:
            rows_TD, index_T = x_BND[0], self.index_BR.reshape(-1)
        else:
            rows_TD, index_T = x_BND.reshape(self.batch * self.rows, -1), self.wide_T
        return rows_TD.index_select(0, index_T).view(self.batch, self.count, -1)

    def put(self, y_BRD: torch.Tensor) -> torch.Tensor:
        """Spreads selected rows back over the full sequence, zeros elsewhere: (B, N, D)."""
        if self.slices is not None:
            if not _trains(y_BRD):
                return _put(y_BRD, self.slices, self.rows)
            spread: torch.Tensor = _Put.apply(y_BRD, self.slices, self.rows)
            return spread
        out = y_BRD.new_zeros(self.batch, self.rows, y_BRD.shape[-1])
        packed = y_BRD.reshape(self.batch * self.count, -1)
        if self.valid_BR is not None:
            packed = packed.index_select(0, self.packed_T)
        out.view(self.batch * self.rows, -1).index_copy_(0, self.flat_T, packed)
        return out

    def packed(self, x_BN: torch.Tensor) -> torch.Tensor | None:
        """The selected rows (B, R) of numbers on the host, -1 in padding slots; None if that would wait."""
        if self.slices is not None:
            return torch.cat([x_BN[:, a:b] for a, b in self.slices] or [x_BN[:, :0]], dim=1)
        if self.index_BR.device.type not in READABLE:
            return None
        found_BR = x_BN.expand(self.batch, -1).gather(1, self.index_BR)
        return found_BR if self.valid_BR is None else found_BR.masked_fill(~self.valid_BR, -1)

    @property
    def mask_BN(self) -> torch.Tensor:
        """The set as a boolean (batch, rows) mask, on its own device."""
        mask = torch.zeros(self.batch * self.rows, dtype=torch.bool, device=self.flat_T.device)
        return mask.index_fill_(0, self.flat_T, True).view(self.batch, self.rows)

    def beside(self, x_BN: torch.Tensor) -> torch.Tensor:
        """What is told of every row, of those rows that ``apply`` gives a module, in its shape."""
        if self.slices is not None:
            return torch.cat([x_BN[:, a:b] for a, b in self.slices] or [x_BN[:, :0]], dim=1)
        return x_BN.reshape(-1).index_select(0, self.flat_T)[None]

    def apply(self, rowwise: Callable[[torch.Tensor], torch.Tensor], x_BND: torch.Tensor) -> torch.Tensor:
        """Runs a row-wise module on the selected rows alone and spreads its output, zeros elsewhere."""
        if self.slices is not None:
            return self.put(rowwise(self.take(x_BND)))
        features = x_BND.shape[-1]
        y = rowwise(x_BND.reshape(-1, features).index_select(0, self.flat_T)[None])[0]
        out = y.new_zeros(self.batch * self.rows, y.shape[-1])
        return out.index_copy_(0, self.flat_T, y).view(self.batch, self.rows, -1)


def last_upto(mask_BN: torch.Tensor) -> torch.Tensor:
    """For every row the last row of the set that is not after it, (B, N) on any device; -1 for none."""
    rows = torch.arange(mask_BN.shape[1], device=mask_BN.device)
    return torch.where(mask_BN, rows, -1).cummax(1).values


Slices = tuple[tuple[int, int], ...]


def _take(x_BND: torch.Tensor, slices: Slices) -> torch.Tensor:
    parts = [x_BND[:, a:b] for a, b in slices]
    return parts[0] if len(parts) == 1 else torch.cat(parts or [x_BND[:, :0]], dim=1)


def _put(y_BRD: torch.Tensor, slices: Slices, rows: int) -> torch.Tensor:
    out = y_BRD.new_zeros(y_BRD.shape[0], rows, y_BRD.shape[-1])
    start = 0
    for a, b in slices:
        out[:, a:b] = y_BRD[:, start : start + b - a]
        start += b - a
    return out


def _trains(x: torch.Tensor) -> bool:
    return x.requires_grad and torch.is_grad_enabled()


class _Take(torch.autograd.Function):
    """Taking slices, whose gradient is putting them: one pass, where each slice's own would fill all rows."""

    @staticmethod
    def forward(ctx: Any, x_BND: torch.Tensor, slices: Slices) -> torch.Tensor:
        ctx.slices, ctx.rows = slices, x_BND.shape[1]
        # One run is a view of the input, and a function of autograd returns a tensor of its own.
        taken = _take(x_BND, slices)
        return taken.view_as(taken) if len(slices) == 1 else taken

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _put(grads[0], ctx.slices, ctx.rows), None


class _Put(torch.autograd.Function):
    """Putting slices, whose gradient is taking them."""

    @staticmethod
    def forward(ctx: Any, y_BRD: torch.Tensor, slices: Slices, rows: int) -> torch.Tensor:
        ctx.slices = slices
        return _put(y_BRD, slices, rows)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return _take(grads[0], ctx.slices), None, None


def runs(mask_N: torch.Tensor) -> tuple[tuple[int, int], ...]:
    """Unbroken runs ``(start, stop)`` of the True entries of a one-dimensional mask."""
    edges = torch.nn.functional.pad(mask_N.int(), (1, 1)).diff()
    return tuple(
        zip((edges == 1).nonzero()[:, 0].tolist(), (edges == -1).nonzero()[:, 0].tolist(), strict=True)
    )
