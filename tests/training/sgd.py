"""A run of a configuration with plain gradient descent, so that weights tell gradients to their last digits.

AdamW divides a gradient by its own size, and with it the rounding of one that is almost zero.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from saccade.training import TrainingConfig, run, train

STEADY = ("optimisation.schedule=constant", "optimisation.warmup=0", "optimisation.max_grad_norm=0")
"""Settings under which a step is the learning rate times the gradient."""


def descent(groups: Any, lr: float, betas: Any) -> torch.optim.Optimizer:
    """In place of AdamW."""
    return torch.optim.SGD(groups, lr=lr)


@contextmanager
def plainly() -> Iterator[None]:
    """Runs within take plain steps, and draw no curve."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim, "AdamW", descent)
        patch.setattr(run, "loss_curve", lambda history, title: b"")
        yield


if __name__ == "__main__":
    with plainly():
        train(TrainingConfig.from_data(json.loads(Path(sys.argv[1]).read_text("utf-8"))))
    # As the command does: an end with open connections may be taken for a failure.
    torch.distributed.destroy_process_group()
