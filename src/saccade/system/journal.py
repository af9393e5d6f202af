"""What long work leaves behind when it is interrupted: finished parts, by the settings that they depend on.

A journal is a file of JSON lines. A line that holds nothing but ``settings`` begins a section; the lines
after it are results under those settings. Runs of other settings have sections of their own in the same
file, and nothing goes before its run has ended and its result is written.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from saccade.system.files import alone, is_special, made, naming, sweep, write_bytes

Entry = dict[str, Any]


def settings_hash(settings: Mapping[str, Any]) -> str:
    """Short digest of settings that results depend on."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:16]


class Journal:
    """The file; this process has it for itself until it is closed.

    It begins with the first result: what ends before one leaves nothing behind. A line that was torn by a
    kill is left out.

    Args:
        path: The file, or None to keep nothing.

    Raises:
        ValueError: If another process has it, or the file is something else.
    """

    def __init__(self, path: str | os.PathLike | None) -> None:
        # What cannot be read back (a device) keeps nothing.
        self.path = None if path is None or is_special(Path(path)) else Path(path)
        self._opened: dict[str, Section] = {}
        self._blocks: list[tuple[str, list[bytes]]] = []
        self._last: str | None = None
        self._clean = True
        self._stack = ExitStack()
        if self.path is None:
            return
        self._stack.enter_context(alone(self.path))
        try:
            if self.path.parent.is_dir():
                sweep(self.path)
            self._blocks, self._clean = _read(self.path)
        except BaseException:
            self.close()
            raise
        self._last = self._blocks[-1][0] if self._blocks else None

    def section(self, settings: Mapping[str, Any]) -> Section:
        """The results that were kept under these settings, and where more of them go.

        Args:
            settings: Everything that the results depend on, as plain values.
        """
        digest = settings_hash(settings)
        if digest not in self._opened:
            kept = [json.loads(line) for own, lines in self._blocks if own == digest for line in lines[1:]]
            self._opened[digest] = Section(self, digest, settings, kept)
        return self._opened[digest]

    def finish(self) -> str:
        """Forgets what was kept in the sections that were opened, for their results are safe elsewhere.

        Returns:
            What the file still holds, in words; empty if nothing.
        """
        self._drop(*self._opened)
        self.close()
        return "" if self.path is None else rest(self.path)

    def close(self) -> None:
        """Lets go of the file and leaves it, for a later run to go on from."""
        self._stack.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _drop(self, *digests: str) -> None:
        for digest in digests:
            self._opened.pop(digest, None)
        if self.path is None or not digests or not self.path.exists():
            return
        blocks, self._clean = _read(self.path)
        self._blocks = [block for block in blocks if block[0] not in digests]
        self._last = self._blocks[-1][0] if self._blocks else None
        if any(len(lines) > 1 for _, lines in self._blocks):
            write_bytes(self.path, _joined(self._blocks))
        else:
            self.path.unlink(missing_ok=True)

    def _write(self, digest: str, settings: Mapping[str, Any], entry: Entry) -> None:
        if self.path is None:
            return
        lines = (
            b""
            if digest == self._last
            else _line({"settings": json.loads(json.dumps(settings, default=str))})
        )
        lines += _line(entry)
        if not self._clean:
            write_bytes(self.path, _joined(self._blocks))
            self._clean = True
        with naming(self.path), made(self.path.parent), self.path.open("ab", buffering=0) as stream:
            before = os.fstat(stream.fileno()).st_size
            try:
                written = stream.write(lines)
                if written < len(lines):
                    stream.write(lines[written:])  # on a full disk this one fails, and says so
                os.fsync(stream.fileno())
            except BaseException:
                with suppress(OSError):
                    stream.truncate(before)
                if not before:
                    self.path.unlink(missing_ok=True)
                raise
        self._last = digest


class Section:
    """Results under one set of settings.

    Attributes:
        entries: What was kept, and what was added since, as plain data.
    """

    def __init__(
        self, journal: Journal, digest: str, settings: Mapping[str, Any], entries: list[Entry]
    ) -> None:
        self._journal, self._digest, self._settings = journal, digest, settings
        self.entries = entries

    def append(self, entry: Entry) -> None:
        """Keeps one result, safe on the disk when this returns.

        Raises:
            OSError: If the disk refuses, naming the file; what was kept before stays.
        """
        self.entries.append(entry)
        self._journal._write(self._digest, self._settings, entry)

    def forget(self) -> None:
        """Lets go of all that was kept in it."""
        self._journal._drop(self._digest)
        self.entries.clear()

    def by(self, name: str) -> dict[Any, Entry]:
        """Entries by one of their fields; those that lack it are left out."""
        return {entry[name]: entry for entry in self.entries if name in entry}


@contextmanager
def opened(journal: Journal | str | os.PathLike | None) -> Iterator[Journal]:
    """A journal for a while: one that is given stays open for its owner, one of a path is closed and left."""
    if isinstance(journal, Journal):
        yield journal
        return
    with Journal(journal) as own:
        yield own


def rest(path: Path) -> str:
    """What a journal holds once a run is finished, in words; empty if there is none."""
    left = sum(len(lines) - 1 for _, lines in _read(path)[0])
    if not left:
        return ""
    return (
        f"{path} still keeps {left} results of an interrupted run of other settings: repeat that run to go "
        "on with them, or delete the file"
    )


def _line(data: Entry) -> bytes:
    return json.dumps(data).encode() + b"\n"


def _joined(blocks: list[tuple[str, list[bytes]]]) -> bytes:
    return b"".join(line for _, lines in blocks for line in lines)


def _read(path: Path) -> tuple[list[tuple[str, list[bytes]]], bool]:
    """Blocks of a file as (digest of settings, lines with the header first), and whether that is all of it.

    Raises:
        ValueError: If it is something else.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return [], True
    except IsADirectoryError:
        raise ValueError(f"{path} is a folder; finished parts are to be kept there in a file") from None
    blocks: list[tuple[str, list[bytes]]] = []
    for raw in content.splitlines(keepends=True):
        data = _parsed(raw)
        if data is None:
            continue
        if data.keys() == {"settings"}:
            told = data["settings"]
            # Former versions wrote down the digest alone.
            blocks.append((told if isinstance(told, str) else settings_hash(told), [raw]))
        elif blocks:
            blocks[-1][1].append(raw)
        else:
            break
    if not blocks and content.count(b"\n"):
        raise ValueError(
            f"{path} is in the way: finished parts of an interrupted run are kept there, and it holds "
            "something else, or what another version of saccade kept; move it away to start anew"
        )
    return blocks, _joined(blocks) == content


def _parsed(raw: bytes) -> Entry | None:
    """What a line holds; None of one that was not written to its end, or is damaged."""
    if not raw.endswith(b"\n"):
        return None
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None
