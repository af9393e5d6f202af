"""Peak memory of a call, by what torch allocates."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def peak_memory(model: nn.Module, call: Callable[[], Any]) -> tuple[int, str]:
    """Most bytes that a call held at once beyond what was held before it.

    On a GPU this is the allocator's own high-water mark. On a CPU the process's high-water mark would also
    hold whatever ran before, so every operator's new storages are counted until they are freed; scratch
    space inside a single operator is not seen.

    Args:
        model: Model the call runs on; it tells the device.
        call: What to measure.

    Returns:
        Bytes, and how they were taken.
    """
    device = next(model.parameters()).device
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before, "torch.cuda.max_memory_allocated"
    with _Storages() as storages:
        call()
    return storages.peak, "storages alive between operators (scratch inside an operator is not seen)"


class _Storages(TorchDispatchMode):
    """Counts the bytes of storages that operators make, until they are freed."""

    def __init__(self) -> None:
        super().__init__()
        self.held = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        before = {storage._cdata for storage in _of((args, kwargs))}
        out = func(*args, **kwargs)
        for storage in _of(out):
            key = storage._cdata
            if key not in before and key not in self._known:
                self._known.add(key)
                self.held += storage.nbytes()
                weakref.finalize(storage, self._freed, key, storage.nbytes())
        self.peak = max(self.peak, self.held)
        return out

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.held -= size


def _of(tree: Any) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
