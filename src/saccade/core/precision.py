"""Scores, cosines and sums in float32 at least, whatever a model computes in, also under autocast (pure)."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch.nn.functional import normalize


def exact(x: torch.Tensor) -> AbstractContextManager[object]:
    """Turns autocast off for products on the device of ``x``.

    Autocast rounds the operands of a product to bfloat16 whatever their type is. A choice between rows that
    are nearly alike then falls otherwise than it does without autocast, so a model trained under it would
    merge and drop other rows than it does when it answers.
    """
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


def wide(x: torch.Tensor) -> torch.Tensor:
    """The same numbers in float32, or as they are where they are wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def unit(x: torch.Tensor) -> torch.Tensor:
    """Vectors of length 1 in the last dimension, in float32 at least; zeros stay zeros.

    In float16 the squares of features above 256 are infinite, and features of vision towers reach thousands.
    """
    return normalize(wide(x), dim=-1)


def narrowed(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Numbers in another type; what that cannot hold becomes the largest that it can.

    A sum of rows that a half-precision model holds may be more than it can hold.
    """
    if torch.finfo(dtype).max >= torch.finfo(x.dtype).max:
        return x.to(dtype)
    most = torch.finfo(dtype).max
    return x.clamp(-most, most).to(dtype)
