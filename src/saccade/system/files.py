"""Files and folders, written whole or not at all, and read with errors a person can act on."""

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

from saccade.system.locks import alone, held, is_at, lock, locked, missing, remove_empty

__all__ = [
    "alone",
    "disk_trouble",
    "is_special",
    "lines",
    "locked",
    "made",
    "naming",
    "read_json",
    "read_text",
    "sweep",
    "write_bytes",
    "write_folder",
    "write_json",
    "write_text",
]

LONGEST_LINE = 1_000_000
"""Bytes of the longest line that `lines` reads: far above any prompt, and read at once."""


def write_bytes(path: str | os.PathLike, data: bytes) -> Path:
    """Writes a file whole or not at all: to a temporary neighbour, then renamed.

    A link is followed, and what is no ordinary file (a device, a pipe) is written straight to.

    Args:
        path: Where; folders on the way are made, and go again if the file cannot be written.
        data: All of it.

    Returns:
        The path.

    Raises:
        OSError: If the disk refuses, naming the file.
    """
    place = Path(os.path.realpath(path))
    with naming(path), made(place.parent):
        if is_special(place):
            place.write_bytes(data)
            return Path(path)
        sweep(place)
        with _temporary(place) as (stream, temporary):
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
            os.replace(temporary, place)
    return Path(path)


@contextmanager
def _temporary(place: Path) -> Iterator[tuple[IO[bytes], Path]]:
    """A new file beside a path, open and locked; it goes if the block fails."""
    mine: bool | None = False
    while mine is False:
        temporary = _beside(place)
        stream = temporary.open("xb")
        # Whoever gets this lock knows that we are dead; until we have it somebody may have thought so.
        mine = lock(stream)
        if mine and not is_at(stream, temporary):
            mine = False
        if mine is False:
            stream.close()
    try:
        with stream:
            yield stream, temporary
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def sweep(path: Path) -> None:
    """Removes what killed processes left beside a file that they were writing; the living lock theirs."""
    began = _began(path)
    with suppress(OSError):
        for one in [p for p in path.parent.iterdir() if began.fullmatch(p.name) and p.is_file()]:
            # Another user's leftovers are not ours to remove, and no reason to fail.
            with suppress(OSError), one.open("rb") as stream:
                if lock(stream):
                    one.unlink()


def is_special(path: Path) -> bool:
    """Whether something is there that is neither a file nor a folder, such as ``/dev/null``."""
    return path.exists() and not path.is_file() and not path.is_dir()


@contextmanager
def naming(path: str | os.PathLike, within: Path | None = None) -> Iterator[None]:
    """Lets failures of the disk name this file: a full one names none, others a temporary neighbour.

    Args:
        path: What is written.
        within: Where given, failures that name something that is neither in this folder nor on the way to the
            file stay as they are.
    """
    try:
        yield
    except OSError as error:
        at = None if error.filename is None or within is None else Path(str(error.filename))
        if error.errno is None or (at and within not in (at, *at.parents) and at not in Path(path).parents):
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error


@contextmanager
def made(folder: Path) -> Iterator[None]:
    """Makes a folder and those on the way; those that are empty go again if the block fails."""
    fresh = missing(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        remove_empty(fresh)
        raise


@contextmanager
def disk_trouble(what: str, kept: str, system: bool = True) -> Iterator[None]:
    """Turns a failed write, by whichever library, into one line that says what is left.

    Args:
        what: What is written.
        kept: What is left, and what to do.
        system: Whether failures that the system reports are turned too, or only those of libraries.

    Raises:
        ValueError: In place of the failure.
    """
    from safetensors import SafetensorError

    try:
        yield
    # torch reports a full disk as a RuntimeError of its zip writer.
    except (OSError, RuntimeError, SafetensorError) as error:
        if isinstance(error, OSError) and not system:
            raise
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"cannot write {what}: {reason}; {kept}") from error


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
    work = _beside(path)
    with naming(path, within=work), made(path.parent):
        _sweep(path)
        # Held from before the folder is there until it is gone: whoever gets the lock knows that we are dead.
        with held(_lock_of(work), about=path):
            fresh = work / "new"
            try:
                fresh.mkdir(parents=True)
                usual = fresh.stat().st_mode & 0o777
                yield fresh
                for one in fresh.rglob("*"):
                    one.chmod(usual if one.is_dir() else usual & 0o666)  # some writers leave private files
                if path.exists():
                    os.replace(path, work / "old")
                os.replace(fresh, path)
            finally:
                _end(work, path)


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


def _began(path: Path) -> re.Pattern[str]:
    """Names that ``_beside`` gives."""
    return re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{32}}\.part")


def _sweep(path: Path) -> None:
    """Ends what killed processes began; those that live hold their lock."""
    began = _began(path)
    for work in [p for p in path.parent.iterdir() if began.fullmatch(p.name) and p.is_dir()]:
        # Another user's leftovers are not ours to remove, and no reason to fail.
        with suppress(OSError), held(_lock_of(work)) as dead:
            if dead:
                _end(work, path)


def _end(work: Path, path: Path) -> None:
    """Removes a temporary folder; a former folder that was set aside in it returns if none took its place."""
    old = work / "old"
    if old.exists() and not path.exists():
        os.replace(old, path)
    shutil.rmtree(work, ignore_errors=True)
