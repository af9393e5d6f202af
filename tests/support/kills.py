"""Ends work at a chosen moment: before the n-th time that it touches the disk."""

from __future__ import annotations

import io
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

KILLED = 77
"""Exit code of a fork that was ended."""


class Killed(BaseException):
    """What ends work within this process."""


@contextmanager
def at(step: int, end: Callable[[], Any]) -> Iterator[None]:
    """Calls ``end`` before the step-th time that a file is opened for writing, synced, renamed or removed.

    Nothing is synced in earnest, which takes most of the time: the machine goes on, and what a process had
    written before it ended is there.
    """
    left = step
    names = ("fsync", "replace", "rename", "unlink", "mkdir", "rmdir")
    real = {name: getattr(os, name) for name in names}
    real_open = io.open

    def tick() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            end()

    def counted(name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            tick()
            return None if name == "fsync" else real[name](*args, **kwargs)

        return call

    def opened(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if set(mode) & set("wax+"):
            tick()
        return real_open(file, mode, *args, **kwargs)

    for name in names:
        setattr(os, name, counted(name))
    io.open = opened
    try:
        yield
    finally:
        for name, function in real.items():
            setattr(os, name, function)
        io.open = real_open


def forked(work: Callable[[], Any], step: int = 0) -> int:
    """Does work in a fork, which ends before the step-th touch without any farewell; gives its exit code."""
    pid = _fork(work, step)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def sigkilled(work: Callable[[], Any], begun: Callable[[], bool]) -> None:
    """Does work in a fork, which gets a SIGKILL once it has begun."""
    pid = _fork(work, 0)
    limit = time.monotonic() + 60
    while not begun() and time.monotonic() < limit:
        ended, status = os.waitpid(pid, os.WNOHANG)
        assert not ended, f"it ended by itself: {status}"
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def left_over(folder: Path) -> list[str]:
    """Temporary files and locks, and folders without a file."""
    odd = [p for p in folder.rglob("*") if p.name.endswith((".part", ".lock", ".tmp"))]
    odd += [p for p in folder.rglob("*") if p.is_dir() and not any(p.iterdir())]
    return sorted(str(p.relative_to(folder)) for p in odd)


def _fork(work: Callable[[], Any], step: int) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        with at(step, lambda: os._exit(KILLED)):
            code = int(work() or 0)
    finally:
        os._exit(code)
