"""What is kept on the host, whatever device new tensors go to by default (pure)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def on_host(call: Callable[P, R]) -> Callable[P, R]:
    """Lets tensors that a call makes lie on the host, unless it names their device.

    After ``torch.set_default_device("cuda")``, or inside ``with torch.device("cuda")``, they would lie there,
    beside masks and counts that are on the host so that nothing waits for the device.
    """

    @functools.wraps(call)
    def there(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.get_default_device().type == "cpu":
            return call(*args, **kwargs)
        with torch.device("cpu"):
            return call(*args, **kwargs)

    return there
