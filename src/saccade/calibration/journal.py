"""What an interrupted calibration leaves behind, so that it loses at most one sample."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class Journal:
    """Results by sample, appended to a file as they come; its first line holds the settings.

    The file begins with the first result: what ends before one leaves nothing behind.

    Args:
        path: The file, or None to keep nothing.
        settings: Everything that the results depend on, as plain values.

    Raises:
        ValueError: If the file holds results of other settings.
    """

    def __init__(self, path: str | os.PathLike | None, settings: dict[str, Any]) -> None:
        self.path = None if path is None else Path(path)
        self.entries: dict[str, dict[str, Any]] = {}
        self._header = b""
        if self.path is None:
            return
        lines, whole = _whole_lines(self.path)
        if len(lines) > 1:
            self._check(lines[0], settings)
            self.entries = {entry["sample"]: entry for entry in lines[1:]}
            # What stands after the last whole line is half a result.
            with self.path.open("r+b") as stream:
                stream.truncate(whole)
        else:
            self._header = _line({"settings": settings})

    def _check(self, header: dict[str, Any], settings: dict[str, Any]) -> None:
        found = header.get("settings")
        if found == json.loads(json.dumps(settings)):
            return
        found = found if isinstance(found, dict) else {}
        other = sorted(key for key in {*found, *settings} if found.get(key) != settings.get(key))
        raise ValueError(
            f"{self.path} holds an interrupted run of other settings "
            f"({', '.join(other) or 'unreadable'}): repeat that one, or delete the file to start anew"
        )

    def append(self, entry: dict[str, Any]) -> None:
        """Keeps one result; ``entry["sample"]`` is its key."""
        self.entries[entry["sample"]] = entry
        if self.path is not None:
            self._write(_line(entry))

    def remove(self) -> None:
        """Deletes the file of a finished calibration."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def _write(self, line: bytes) -> None:
        assert self.path is not None
        if self._header:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("wb" if self._header else "ab") as stream:
            stream.write(self._header + line)
            stream.flush()
            os.fsync(stream.fileno())
        self._header = b""


def _line(data: dict[str, Any]) -> bytes:
    return json.dumps(data).encode() + b"\n"


def _whole_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The lines that were written to their end, and the bytes they take."""
    lines: list[dict[str, Any]] = []
    taken = 0
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return lines, taken
    for raw in content.splitlines(keepends=True):
        try:
            data = json.loads(raw)
        except (json.JSONDecodeError, UnicodeDecodeError):
            break
        if not raw.endswith(b"\n") or not isinstance(data, dict) or (lines and "sample" not in data):
            break
        lines.append(data)
        taken += len(raw)
    return lines, taken
