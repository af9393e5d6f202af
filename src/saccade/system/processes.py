"""Several processes at one piece of work; what one of them says or fails by is told in this one."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

WAIT = 0.5
"""Seconds between looks at what others do."""

MOST_PROCESSES = 1024
"""More are a mistyped number."""

Say = Callable[[str], None]
Part = Callable[[int, Say], None]
"""What a process does: told its number, and how to say a line."""


class ProcessEnded(ValueError):
    """A process ended by itself, or was killed, before all was done."""


class HelperLost(Exception):
    """A helper ended by itself, or was killed, or its node is gone; says by what."""


def together(
    part: Part, workers: int, say: Say = lambda line: None, watch: Callable[[], None] = lambda: None
) -> None:
    """Runs a part in several processes until all have ended.

    Args:
        part: What each does; it must be a function of a module, or a partial of one.
        workers: How many.
        say: Called with the lines that they say.
        watch: Called about twice a second.

    Raises:
        ValueError: If one of them fails, with what it said.
        ProcessEnded: If one ended without a word; the others have ended as they would.
    """
    import multiprocessing  # here, for commands that only list or refuse start without it

    context = multiprocessing.get_context("spawn")
    said: Any = context.SimpleQueue()
    started = [
        context.Process(target=_run, args=(part, number, said), daemon=True) for number in range(workers)
    ]
    try:
        for process in started:
            process.start()
        alive = True
        while alive:
            alive = any(process.is_alive() for process in started)
            while not said.empty():
                failed, line = said.get()
                if failed:
                    raise ValueError(line)
                say(line)
            watch()
            if alive:
                time.sleep(WAIT)
    finally:
        for process in started:
            if process.is_alive():
                process.terminate()
        for process in started:
            process.join()
    codes = [process.exitcode for process in started]
    if any(codes):
        told = ", ".join(map(str, codes))
        raise ProcessEnded(f"a process ended ({told}) before all was done; repeat the command to go on")


def check_helpers(processes: int, ray: str | None) -> None:
    """Refuses a number of processes that cannot be, and a cluster of which none is asked.

    Raises:
        ValueError: If it is so.
    """
    if type(processes) is not int or not 1 <= processes <= MOST_PROCESSES:
        raise ValueError(f"processes are a number from 1 to {MOST_PROCESSES}, got {processes!r}")
    if ray is not None and processes == 1:
        raise ValueError(
            "a Ray cluster gives the processes beside this one: say how many there are in all (--processes 2)"
        )


def _run(part: Part, number: int, said: Any) -> None:
    # A shell's background job ignores Ctrl-C, and so would the processes that it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
    try:
        part(number, lambda line: said.put((False, line)))
    except KeyboardInterrupt:
        return
    except Exception as error:
        said.put((True, f"{type(error).__name__}: {error}"))


def end_with(parent: int, by: int = signal.SIGINT) -> None:
    """Ends this process as Ctrl-C does once nobody waits for it: answers are in ledgers, trainings save.

    Args:
        parent: The process that started it.
        by: The signal that it ends by.
    """
    while os.getppid() == parent:
        time.sleep(WAIT)
    os.kill(os.getpid(), by)
