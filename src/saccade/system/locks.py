"""Locks between processes: who works on a file or folder, told to whoever else wants to."""

from __future__ import annotations

import json
import os
import shlex
import socket
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import cache
from io import FileIO
from pathlib import Path
from typing import IO, Any

LOCK = ".lock"
TRIES = 100
"""How often a lock is made anew whose folder goes meanwhile."""
LONGEST = 120
"""Characters of a command that are told."""

_mine: set[FileIO] = set()
"""Open locks of this process: those that it forks would keep them after its end."""


@contextmanager
def locked(path: str | os.PathLike) -> Iterator[bool]:
    """Says whether this process holds a lock, without waiting for it; a lock dies with its process.

    Args:
        path: File that is the lock; it is there while somebody holds it, and tells who.

    Yields:
        Whether this process holds it; False where another one does.

    Raises:
        ValueError: If files cannot be locked there.
    """
    with held(Path(path)) as mine:
        if mine is None:
            raise ValueError(
                f"{path}: files cannot be locked on this system or disk, so processes cannot share it; "
                "choose another folder"
            )
        yield mine


@contextmanager
def alone(path: str | os.PathLike, *, folder: bool = False) -> Iterator[None]:
    """Keeps a file or a folder for this process while the block lasts, as far as others ask by this too.

    Where files cannot be locked a warning says so, and the block runs.

    Args:
        path: What is worked on; it need not be there. What is no ordinary file (a device) is nobody's.
        folder: Whether it is a folder: its lock lies in it, that of a file beside it.

    Raises:
        ValueError: If somebody holds it, saying who, or there is a file where a folder should be.
        OSError: If the disk refuses a lock there, naming the file or folder.
    """
    place = Path(os.path.realpath(path))
    if not folder and place.exists() and not place.is_file():
        yield
        return
    if folder and place.exists() and not place.is_dir():
        raise ValueError(f"{path} is a file, and a folder is to be written")
    at = place / LOCK if folder else place.with_name(f".{place.name}{LOCK}")
    with held(at, about=path, tidy=True) as mine:
        if mine is False:
            what = "folder" if folder else "file"
            raise ValueError(f"{path} is in use by {holder(at)}; wait for its end, or give another {what}")
        if mine is None:
            warnings.warn(
                f"files cannot be locked beside {path}: see to it that no other command writes there",
                stacklevel=3,
            )
        yield


def holder(path: Path) -> str:
    """Who holds a lock, in words."""
    told: object = None
    with suppress(OSError, ValueError):
        told = json.loads(path.read_text("utf-8"))
    if not isinstance(told, dict) or not {"pid", "host", "since", "command"} <= told.keys():
        return "another process"
    if (told["pid"], told["host"]) == (os.getpid(), socket.gethostname()):
        return "this very command"
    where = "" if told["host"] == socket.gethostname() else f" on {told['host']}"
    return f"process {told['pid']}{where} since {told['since']} ({told['command']})"


@contextmanager
def held(path: Path, about: str | os.PathLike | None = None, tidy: bool = False) -> Iterator[bool | None]:
    """Whether this process holds the lock; None where files cannot be locked.

    Args:
        path: File that is the lock; folders on the way are made.
        about: What errors name; the lock if omitted.
        tidy: Whether folders that were made for it go again if they are empty in the end.
    """
    fresh = missing(path.parent) if tidy else []
    try:
        stream, mine = _taken(path, about or path)
        owner = os.getpid()
        with stream:
            if mine:
                _mine.add(stream)
                _sign(stream)
            try:
                yield mine
            finally:
                _mine.discard(stream)
                # Not in a fork that leaves the block too: it is its parent's.
                if mine is not False and os.getpid() == owner:
                    with suppress(OSError):
                        path.unlink(missing_ok=True)
    finally:
        remove_empty(fresh)


def missing(folder: Path) -> list[Path]:
    """A folder and those on the way to it that are not there, the deepest first."""
    found = []
    while not folder.exists() and folder != folder.parent:
        found.append(folder)
        folder = folder.parent
    return found


def remove_empty(folders: Sequence[Path]) -> None:
    """Removes folders, the deepest first, as far as nothing is in them."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def _taken(path: Path, about: str | os.PathLike) -> tuple[FileIO, bool | None]:
    """The open lock, and whether it could be had."""
    _forget_in_forks()
    tries = 0
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            stream = FileIO(path, "a+")
        except OSError as error:
            tries += 1
            if isinstance(error, FileNotFoundError) and tries < TRIES:
                continue  # its folder went with its former holder
            raise OSError(error.errno, error.strerror, str(about)) from error
        mine = lock(stream)
        # Its former holder may have removed the file between our open and our lock.
        if not mine or is_at(stream, path):
            return stream, mine
        stream.close()


def _sign(stream: FileIO) -> None:
    """Writes down who holds a lock; where there is no room for that it is held all the same."""
    program = Path(sys.argv[0])
    name = program.parent.name if program.name == "__main__.py" else program.name
    command = shlex.join([name, *sys.argv[1:]])
    told = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now().strftime("%Y-%m-%d %H:%M:%S"),
        "command": command if len(command) <= LONGEST else f"{command[:LONGEST]}...",
    }
    with suppress(OSError):
        stream.truncate(0)
        stream.write(json.dumps(told).encode())


@cache
def _forget_in_forks() -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_let_go)


def _let_go() -> None:
    """Closes a fork's copies of its parent's locks, so that they end with the parent."""
    for stream in _mine:
        stream.close()
    _mine.clear()


def lock(stream: IO[Any] | FileIO) -> bool | None:
    """Locks an open file without waiting, until it is closed.

    Returns:
        Whether it could be had; None where files cannot be locked.
    """
    try:
        import fcntl  # not on every platform

        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return None
    return True


def is_at(stream: IO[Any] | FileIO, path: Path) -> bool:
    """Whether an open file is still what is found at a path."""
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except FileNotFoundError:
        return False
