"""A helper that is a process of this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from saccade.helpers.there import HelperModel, Part, open_model, run
from saccade.system.processes import HelperLost, end_with


class LocalHelper:
    """A process with a model of its own.

    Attributes:
        opened: Done once it has opened its model.
    """

    def __init__(self, told: HelperModel, number: int) -> None:
        """Starts it.

        Args:
            told: What it opens.
            number: Which it is: processes of a machine take its accelerators in turn, this one being 0.
        """
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(1, context, _begin, (os.getpid(),))
        self.opened: Future[Any] = self._pool.submit(_open, told, number)

    def do(self, part: Part, told: tuple[Any, ...]) -> Future[Any]:
        """Hands it a part.

        Raises:
            HelperLost: If it has ended.
        """
        try:
            return self._pool.submit(run, part, told)
        except BrokenProcessPool:
            raise HelperLost("its process was killed") from None

    def outcome(self, future: Future[Any]) -> Any:
        """What a part that has ended came to, or raises what it failed by.

        Raises:
            HelperLost: If the helper has ended before it.
        """
        try:
            return future.result()
        except BrokenProcessPool:
            raise HelperLost("its process was killed") from None

    def end(self) -> None:
        """Ends it: what it is at is of no use to anybody, and a pool that is shut down would wait for it."""
        for process in list((self._pool._processes or {}).values()):
            process.terminate()
        self._pool.shutdown(wait=True, cancel_futures=True)


def _begin(asker: int) -> None:
    # The process that asks hears Ctrl-C, and ends its helpers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with, args=(asker, signal.SIGTERM), daemon=True).start()


def _open(told: HelperModel, number: int) -> None:
    open_model(told, told.opening.of_process(number), f"process {number}")
