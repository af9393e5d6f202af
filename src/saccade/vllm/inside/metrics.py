"""Rows computed and skipped, in what vLLM tells at ``/metrics``."""

from __future__ import annotations

import atexit
from collections.abc import Iterator

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily

from saccade.vllm.counter import RowCounter

ROWS = "saccade_rows"
ENTERED = "saccade_visual_rows"


class RowsTold:
    """Reads the counts of an engine when it is asked for metrics."""

    def __init__(self, counter: RowCounter) -> None:
        self._counter = counter

    def collect(self) -> Iterator[CounterMetricFamily]:
        """The counts of every layer, and of visual rows before the decoder."""
        about = (
            "Rows of prompts and answers, by decoder layer, part of the layer, and whether it was computed"
        )
        rows = CounterMetricFamily(ROWS, about, labels=("layer", "part", "outcome"))
        for labels, count in self._counter.told():
            rows.add_metric(list(labels.values()), count)
        yield rows
        entered = CounterMetricFamily(
            ENTERED, "Visual rows that a plan let into the decoder, or dropped before it", labels=("outcome",)
        )
        for outcome, count in zip(("kept", "dropped"), self._counter.entered, strict=True):
            entered.add_metric([outcome], int(count))
        yield entered


_TOLD: list[RowsTold] = []


def tell(counter: RowCounter) -> None:
    """Tells the counts of the engine that is being set up, in place of those of one before it."""
    while _TOLD:
        REGISTRY.unregister(_TOLD.pop())
    told = RowsTold(counter)
    REGISTRY.register(told)
    _TOLD.append(told)
    atexit.register(counter.path.unlink, missing_ok=True)
