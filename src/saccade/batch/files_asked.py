"""Whether the files that a record names are still those that its answer is about.

A stamp is two digests: of the names, sizes and times of the files, which cost nothing to look at, and of
their bytes, which are read again only where the first differs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from saccade.inputs.data import Entry
from saccade.inputs.pictures import is_pipe

Stamp = list[str]


def stamp_of(record: Entry) -> Stamp:
    """The stamp of a record's pictures and videos; empty for a record without any."""
    files = _files(record)
    return [_looks(files), _bytes(files)] if files else []


def still(record: Entry, stamp: Stamp) -> bool:
    """Whether a record's files hold what they held when they were stamped."""
    files = _files(record)
    if not files or not stamp:
        return bool(files) == bool(stamp)
    return stamp[0] == _looks(files) or stamp[1] == _bytes(files)


def _files(record: Entry) -> list[Path]:
    """Every file that is read; of folders of frames what lies in them."""
    found: list[Path] = []
    for path in (*record.paths, *record.videos):
        found += sorted(path.iterdir()) if path.is_dir() else [path]
    return found


def _looks(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        seen = None
        with suppress(OSError):
            about = path.stat()
            seen = (about.st_size, about.st_mtime_ns)
        digest.update(repr((path.name, seen)).encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]


def _bytes(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        if is_pipe(path):
            continue  # reading it may never end; it is refused where it is opened
        try:
            with path.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        except OSError as error:
            digest.update(type(error).__name__.encode())
    return digest.hexdigest()[:16]
