"""How many threads serve a tiny model best here: more are slower where other programs hold the cores."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from saccade import models
from saccade.inputs.samples import Sample
from saccade.system.threads import use

ROUNDS = 3


@contextmanager
def fastest_threads(
    loaded: models.Loaded, samples: Sequence[Sample], asked: int | None = None
) -> Iterator[None]:
    """Sets torch's thread count to the fastest of ``candidates`` for one batch, and puts it back.

    Args:
        loaded: The model; nothing is tried where it is not on the CPU.
        samples: The batch to try.
        asked: A number of threads that is taken untried.
    """
    before = torch.get_num_threads()
    try:
        if asked is not None:
            use(asked)
        elif loaded.device.type == "cpu":
            inputs = models.inputs(loaded, samples)
            seconds = dict.fromkeys(candidates(), float("inf"))
            for _ in range(ROUNDS):
                for count in seconds:
                    torch.set_num_threads(count)
                    start = time.perf_counter()
                    ask(loaded, inputs)
                    seconds[count] = min(seconds[count], time.perf_counter() - start)
            torch.set_num_threads(min(seconds, key=lambda count: seconds[count]))
        yield
    finally:
        torch.set_num_threads(before)


def candidates() -> list[int]:
    """Thread counts worth trying: one, and what torch would take."""
    return sorted({1, torch.get_num_threads()})


@torch.inference_mode()
def ask(loaded: models.Loaded, inputs: Any) -> None:
    """One prefill."""
    loaded.model(**inputs, logits_to_keep=1)
