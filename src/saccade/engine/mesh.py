"""Models whose heads are split over processes (tensor parallel): what a decision sees is put together.

Every process holds some heads of every layer and all rows, so routed layers run as they are. Only scores need
the other processes: they are gathered, so that all decide by the same numbers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def all_heads(x: torch.Tensor, heads: int, module: nn.Module) -> torch.Tensor:
    """All heads of what one process has of some; the same tensor where it has all.

    Args:
        x: Values by head, (B, heads of this process, ...); outside of autograd.
        heads: How many heads there are.
        module: The attention module; its weights say which processes hold the others.

    Returns:
        (B, heads, ...), in the order of the heads and equal in every process.

    Raises:
        ValueError: If the other heads cannot be found.
    """
    if x.shape[1] == heads:
        return x
    import torch.distributed as dist

    group, ranks = _holders(x.shape[1], heads, module)
    parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(ranks)]
    dist.all_gather(parts, x.contiguous(), group=group)
    return torch.cat(parts, dim=1)


def most_of_heads(x: torch.Tensor, heads: int, module: nn.Module) -> torch.Tensor:
    """The largest value over all heads, (B, ...), equal in every process; arguments are those above.

    Raises:
        ValueError: If the other heads cannot be found.
    """
    most = x.amax(1)
    if x.shape[1] == heads:
        return most
    import torch.distributed as dist

    group, _ = _holders(x.shape[1], heads, module)
    dist.all_reduce(most, op=dist.ReduceOp.MAX, group=group)
    return most


def check_rows(x: torch.Tensor, rows: int) -> torch.Tensor:
    """The same tensor (B, N, ...), if it holds all rows of this forward.

    Raises:
        ValueError: If rows are split over processes (sequence parallel).
    """
    if x.shape[1] != rows:
        raise ValueError(
            f"a layer has {x.shape[1]} rows of {rows}: plans need all rows of a sample in every process, so "
            "sequence parallel is not supported; leave it out of the tp_plan"
        )
    return x


def _holders(here: int, heads: int, module: nn.Module) -> tuple[Any, int]:
    """The processes that hold the heads of a layer, and how many they are."""
    import torch.distributed as dist

    group = _group(module)
    ranks = 1 if group is None else dist.get_world_size(group)
    if here * ranks != heads:
        raise ValueError(
            f"this process has {here} of {heads} attention heads and its weights do not say who has "
            "the others: shard the model by from_pretrained with a tp_plan whose size divides the heads"
        )
    return group, ranks


def _group(module: nn.Module) -> Any:
    """Processes over which the weights of a module are split, or None."""
    from torch.distributed.tensor import DTensor, Shard

    for weight in module.parameters():
        if isinstance(weight, DTensor):
            for axis, placement in enumerate(weight.placements):
                if isinstance(placement, Shard) and weight.device_mesh.size(axis) > 1:
                    return weight.device_mesh.get_group(axis)
    return None
