"""Products in the precision that they state, also where the caller computes under autocast."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def exact(x: torch.Tensor) -> AbstractContextManager[object]:
    """Turns autocast off for products on the device of ``x``.

    Autocast rounds the operands of a product to bfloat16 whatever their type is. A choice between rows that
    are nearly alike then falls otherwise than it does without autocast, so a model trained under it would
    merge and drop other rows than it does when it answers.
    """
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()
