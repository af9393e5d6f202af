"""Other processes that do parts of long work, each with a model of its own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from saccade import models
from saccade.opening import Opening
from saccade.system import threads
from saccade.system.processes import ProcessEnded, end_with

AHEAD = 2
"""Parts that wait at every helper, so that none is idle while this process is at a part of its own."""

Tag = TypeVar("Tag")
Part = Callable[..., Any]
"""What a helper does: a function of a module, given the model and what it is told."""

_loaded: models.Loaded | None = None


class Helpers(Generic[Tag]):
    """Helpers that take parts as long as they have room; what they found is handed back with its tag.

    As a context: the processes end with it.
    """

    def __init__(self, model: str, opening: Opening, count: int, cpu_threads: int | None = None) -> None:
        """Gets ready; models are opened when the first part is taken.

        Args:
            model: What the user called the model.
            opening: How it is opened.
            count: How many, beside this process.
            cpu_threads: CPU threads of each.
        """
        context = multiprocessing.get_context("spawn")
        told = (model, opening, context.Value("i", 0), cpu_threads, os.getpid())
        self._pool = ProcessPoolExecutor(count, context, _open, told)
        self._most = AHEAD * count
        self._waiting: dict[Future[Any], Tag] = {}

    def __enter__(self) -> Helpers[Tag]:
        return self

    def __exit__(self, *_: object) -> None:
        # What is running is of no use to anybody; a pool that is shut down would wait for it.
        for process in list((self._pool._processes or {}).values()):
            process.terminate()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def take(self, tag: Tag, part: Part, *told: Any) -> bool:
        """Hands a part over, if a helper has room for it.

        Args:
            tag: What the result is handed back with.
            part: What to do.
            told: Its arguments behind the model.

        Raises:
            ProcessEnded: If a helper has ended.
        """
        if len(self._waiting) >= self._most:
            return False
        try:
            self._waiting[self._pool.submit(_run, part, *told)] = tag
        except BrokenProcessPool:
            raise _ended() from None
        return True

    def done(self, all_of_them: bool = False) -> Iterator[tuple[Tag, Any]]:
        """Parts that have ended, with their tags.

        Args:
            all_of_them: Whether to wait until none is left.

        Raises:
            ValueError: What a part was refused by.
            ProcessEnded: If a helper has ended.
        """
        while self._waiting:
            ended = wait(self._waiting, None if all_of_them else 0, FIRST_COMPLETED).done
            for future in ended:
                tag = self._waiting.pop(future)
                try:
                    yield tag, future.result()
                except BrokenProcessPool:
                    raise _ended() from None
            if not all_of_them:
                return


def spread(
    helpers: Helpers[Tag] | None,
    part: Part,
    parts: Iterable[tuple[Tag, tuple[Any, ...], Callable[[], Any]]],
) -> Iterator[tuple[Tag, Any]]:
    """What parts come to, as it comes: done by helpers as far as they have room, else here.

    Args:
        helpers: The helpers, if there are any.
        part: What helpers do.
        parts: For each the tag it is told by, its arguments behind the model, and how it is done here.
    """
    for tag, told, here in parts:
        if helpers is None or not helpers.take(tag, part, *told):
            yield tag, here()
        if helpers is not None:
            yield from helpers.done()
    if helpers is not None:
        yield from helpers.done(all_of_them=True)


@contextmanager
def helping(
    model: str, opening: Opening, processes: int, cpu_threads: int | None = None
) -> Iterator[Helpers[Any] | None]:
    """Helpers for as many processes in all, this one among them; None where it is alone."""
    if processes == 1:
        yield None
        return
    with Helpers[Any](model, opening, processes - 1, cpu_threads) as made:
        yield made


def _ended() -> ProcessEnded:
    return ProcessEnded("a process ended before all was answered; repeat the command to go on")


def _open(model: str, opening: Opening, counter: Any, cpu_threads: int | None, asker: int) -> None:
    """Begins a helper; this process is number 0 of those that take accelerators in turn."""
    global _loaded
    # The process that asks hears Ctrl-C, and ends its helpers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with, args=(asker, signal.SIGTERM), daemon=True).start()
    with counter.get_lock():
        counter.value += 1
        number = counter.value
    threads.use(cpu_threads)
    _loaded = models.open_as(model, opening.of_process(number))


def _run(part: Part, *told: Any) -> Any:
    assert _loaded is not None
    return part(_loaded, *told)
