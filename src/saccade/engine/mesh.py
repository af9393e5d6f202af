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

    group = _group(module)
    ranks = 1 if group is None else dist.get_world_size(group)
    if x.shape[1] * ranks != heads:
        raise ValueError(
            f"this process has {x.shape[1]} of {heads} attention heads and its weights do not say who has "
            "the others: shard the model by from_pretrained with a tp_plan whose size divides the heads"
        )
    parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(ranks)]
    dist.all_gather(parts, x.contiguous(), group=group)
    return torch.cat(parts, dim=1)


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


def _group(module: nn.Module) -> Any:
    """Processes over which the weights of a module are split, or None."""
    from torch.distributed.tensor import DTensor, Shard

    for weight in module.parameters():
        if isinstance(weight, DTensor):
            for axis, placement in enumerate(weight.placements):
                if isinstance(placement, Shard) and weight.device_mesh.size(axis) > 1:
                    return weight.device_mesh.get_group(axis)
    return None
