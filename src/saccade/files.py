"""Files and folders, written whole or not at all; locks; and reading with errors a person can act on."""

from __future__ import annotations

import json
import os
import re
import shutil
from codecs import BOM_UTF8
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

LONGEST_LINE = 1_000_000
"""Bytes of the longest line that `lines` reads: far above any prompt, and read at once."""


def write_bytes(path: str | os.PathLike, data: bytes) -> Path:
    """Writes a file whole or not at all: to a temporary neighbour, then renamed.

    Args:
        path: Where; folders on the way are made.
        data: All of it.

    Returns:
        The path.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    try:
        with temporary.open("xb") as stream:
            stream.write(data)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path


def write_text(path: str | os.PathLike, text: str) -> Path:
    """Writes text as UTF-8, whole or not at all."""
    return write_bytes(path, text.encode("utf-8"))


def write_json(path: str | os.PathLike, data: Any) -> Path:
    """Writes JSON whole or not at all."""
    return write_text(path, json.dumps(data, indent=1) + "\n")


@contextmanager
def write_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Writes a folder whole or not at all: the block fills a temporary one, which takes its place at the end.

    A former folder stands until the new one is complete, and stays if the block fails or is interrupted. What
    a killed process left beside it goes, and a former folder that it had set aside comes back.

    Args:
        path: Where; folders on the way are made, and a link is followed.

    Yields:
        An empty folder on the same disk.

    Raises:
        ValueError: If there is a file at `path`.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_dir():
        raise ValueError(f"cannot write {path}: it is a file, and a folder is to be written")
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    work = _beside(path)
    # Held from before the folder is there until it is gone: whoever gets the lock knows that we are dead.
    with _held(_lock_of(work)):
        fresh = work / "new"
        try:
            fresh.mkdir(parents=True)
            usual = fresh.stat().st_mode & 0o777
            yield fresh
            for made in fresh.rglob("*"):
                made.chmod(usual if made.is_dir() else usual & 0o666)  # some writers leave private files
            if path.exists():
                os.replace(path, work / "old")
            os.replace(fresh, path)
        finally:
            _end(work, path)


@contextmanager
def locked(path: str | os.PathLike) -> Iterator[bool]:
    """Says whether this process holds a lock, without waiting for it; a lock dies with its process.

    Args:
        path: File that is the lock; it is there while somebody holds it.

    Yields:
        Whether this process holds it; False where another one does.

    Raises:
        ValueError: If files cannot be locked there.
    """
    with _held(Path(path)) as mine:
        if mine is None:
            raise ValueError(
                f"{path}: files cannot be locked on this system or disk, so processes cannot share it; "
                "choose another folder"
            )
        yield mine


def read_text(path: str | os.PathLike, what: str = "a file") -> str:
    """Reads UTF-8 text; a byte order mark is left out.

    Args:
        path: The file.
        what: What it should be, for errors.

    Raises:
        ValueError: If it is missing, a folder, or not UTF-8.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ValueError(f"no such file: {path}") from None
    except IsADirectoryError:
        raise ValueError(f"{path} is a folder, not {what}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from None


def lines(path: str | os.PathLike, what: str = "a file") -> Iterator[tuple[int, int, bytes | None]]:
    """Lines of a text file, one at a time, so that files larger than the memory can be read.

    Only a line feed ends a line: JSON strings may hold the other separators that Python knows.

    Args:
        path: The file.
        what: What it should be, for errors.

    Yields:
        Number of the line from 1, where it begins, and its bytes without a byte order mark, or None if there
        are more than `LONGEST_LINE`. Blank lines are left out.

    Raises:
        ValueError: If the file is missing or a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder, not {what}")
    if not path.exists():
        raise ValueError(f"no such file: {path}")
    with path.open("rb") as stream:
        at, number = 0, 0
        while line := stream.readline(LONGEST_LINE + 1):
            number, began = number + 1, at
            at += len(line)
            if len(line) > LONGEST_LINE:
                while not line.endswith(b"\n") and (line := stream.readline(LONGEST_LINE)):
                    at += len(line)
                yield number, began, None
            elif (text := line.removeprefix(BOM_UTF8)).strip():
                yield number, began, text


def read_json(path: str | os.PathLike) -> Any:
    """Reads a JSON file.

    Raises:
        ValueError: If it is missing or not JSON.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # thousands of digits and deep nesting, too
        raise ValueError(f"{path} is not JSON that can be read: {error}") from None


def _beside(path: Path) -> Path:
    """A name beside a path that is nobody else's."""
    return path.with_name(f".{path.name}.{uuid4().hex}.part")


def _lock_of(work: Path) -> Path:
    return work.with_suffix(".lock")


def _sweep(path: Path) -> None:
    """Ends what killed processes began; those that live hold their lock."""
    began = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{32}}\.part")
    for work in [p for p in path.parent.iterdir() if began.fullmatch(p.name) and p.is_dir()]:
        # Another user's leftovers are not ours to remove, and no reason to fail.
        with suppress(OSError), _held(_lock_of(work)) as dead:
            if dead:
                _end(work, path)


def _end(work: Path, path: Path) -> None:
    """Removes a temporary folder; a former folder that was set aside in it returns if none took its place."""
    old = work / "old"
    if old.exists() and not path.exists():
        os.replace(old, path)
    shutil.rmtree(work, ignore_errors=True)


@contextmanager
def _held(path: Path) -> Iterator[bool | None]:
    """Whether this process holds the lock; None where files cannot be locked."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        stream = path.open("w")
        mine = _lock(stream)
        # Its former holder may have removed the file between our open and our lock.
        if not mine or _is_at(stream, path):
            break
        stream.close()
    with stream:
        try:
            yield mine
        finally:
            if mine is not False:
                path.unlink(missing_ok=True)


def _lock(stream: IO[str]) -> bool | None:
    try:
        import fcntl  # not on every platform

        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return None
    return True


def _is_at(stream: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except FileNotFoundError:
        return False
