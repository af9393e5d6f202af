"""Which tests run: end-to-end ones are marked, and large tables of cases run a share chosen by name.

A case is chosen by a hash of its name, so that one that is added leaves the others where they are. For a test
that is marked as long a shorter one stands; it runs where every case of everything does.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any
from zlib import crc32

import pytest

STARTERS = ("program",)
"""Fixtures that start a program of their own; a test that takes one is end to end."""
LEADING = ("llava-llama", "llava_next-llama", "qwen2_5_vl")
"""Tiny models that meet the whole share of a shared table: plain rows, views, positions of several axes."""
OTHERS = 12
"""Every other model meets one in so many of it. The engine does with its rows what it does with theirs, and
what is its own is in ``tests/families``."""

MOST = 8
"""Cases of a test that run at most, where its parameters are crossed and it states no share of its own."""

FEW = 2
"""Tests of a file that run while editing, where the file is not what is edited."""

KINDS = ("end to end", "of the matrix", "of one part")


def drawn(name: str, of: int) -> bool:
    """Whether a name is in the share that runs, one of so many."""
    return crc32(name.encode()) % of == 0


def share_of(item: pytest.Item) -> int:
    """One in how many of a test's cases runs; 1 where all do."""
    shares = [int(mark.args[0]) for mark in item.iter_markers("share")]
    if not shares:
        return 1
    params = getattr(item, "callspec", None) and item.callspec.params
    model = params and (params.get("family") or params.get("name"))
    return max(shares) * (OTHERS if model and model not in LEADING else 1)


def choose(
    items: list[pytest.Item], whole: bool, quick: bool, edited: frozenset[str] = frozenset()
) -> tuple[list[pytest.Item], list[pytest.Item]]:
    """Tests that run, and those that do not.

    Args:
        items: All that were collected.
        whole: Every case of every table, and long tests too.
        quick: One case of a few tests of every file, and of all tests of the files that are edited; none that
            is end to end.
        edited: Those files, as `edited_tests` gives them.
    """
    kept = items if whole else _drawn(items)
    if quick:
        kept = _quick([item for item in kept if item.get_closest_marker("e2e") is None], edited)
    running = {id(item) for item in kept}
    return kept, [item for item in items if id(item) not in running]


def edited_tests(root: Path) -> frozenset[str]:
    """Files of tests that are edited, or whose module is: they lie as the package does."""
    asked = ["git", "-C", str(root), "status", "--porcelain", "--no-renames", "--untracked-files=all"]
    try:
        told = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return frozenset()
    found = set()
    for path in (PurePosixPath(line[3:]) for line in told.splitlines()):
        if path.parts[0] == "tests":
            found.add(str(path))
        elif path.parts[:2] == ("src", "saccade"):
            found.add(str(PurePosixPath("tests", *path.parts[2:-1], f"test_{path.name}")))
    return frozenset(found)


def _quick(items: list[pytest.Item], edited: frozenset[str]) -> list[pytest.Item]:
    """The first case of the first tests of every file, by their hashes, and of all tests of edited files."""
    first: dict[str, tuple[int, str]] = {}
    files: dict[str, set[tuple[int, str]]] = {}
    for item in items:
        place = (crc32(item.name.encode()), item.nodeid)
        test = item.nodeid.partition("[")[0]
        first[test] = min(place, first.get(test, place))
        files.setdefault(test.partition("::")[0], set()).add((crc32(test.encode()), test))
    tests = [
        test for file, found in files.items() for _, test in sorted(found)[: None if file in edited else FEW]
    ]
    nodes = {first[test][1] for test in tests}
    return [item for item in items if item.nodeid in nodes]


def _drawn(items: list[pytest.Item]) -> list[pytest.Item]:
    """The share of every test, and of each value of a parameter that has none in it the first by its hash."""
    items = [item for item in items if item.get_closest_marker("long") is None]
    found = {id(item) for item in items if drawn(item.name, share_of(item))} - _beyond_most(items)
    first: dict[tuple[str, str, str], tuple[int, str, int]] = {}
    met: set[tuple[str, str, str]] = set()
    for item in items:
        for key in _values(item):
            if id(item) in found:
                met.add(key)
            place = (crc32(item.name.encode()), item.nodeid, id(item))
            first[key] = min(place, first.get(key, place))
    found |= {place[2] for key, place in first.items() if key not in met}
    return [item for item in items if id(item) in found]


def _beyond_most(items: list[pytest.Item]) -> set[int]:
    """Cases of tests without a share of their own that are not among the first so many by their hashes."""
    tests: dict[str, list[tuple[int, str, int]]] = {}
    for item in items:
        if not list(item.iter_markers("share")):
            place = (crc32(item.name.encode()), item.nodeid, id(item))
            tests.setdefault(item.nodeid.partition("[")[0], []).append(place)
    return {place[2] for places in tests.values() for place in sorted(places)[MOST:]}


def _values(item: pytest.Item) -> list[tuple[str, str, str]]:
    params = getattr(item, "callspec", None) and item.callspec.params
    return [(item.nodeid.partition("[")[0], name, repr(value)) for name, value in (params or {}).items()]


def mark_starters(items: Iterable[Any]) -> None:
    """Marks tests that take a fixture which starts a program."""
    for item in items:
        if set(STARTERS) & set(getattr(item, "fixturenames", ())):
            item.add_marker("e2e")


def counted(reports: Iterable[Any]) -> str:
    """How many tests of what kind ran, in words."""
    kinds: Counter[str] = Counter()
    for report in reports:
        end, table = "e2e" in report.keywords, "share" in report.keywords
        kinds[KINDS[0] if end else KINDS[1] if table else KINDS[2]] += 1
    return f"{kinds.total():,} tests: " + ", ".join(f"{kinds[kind]:,} {kind}" for kind in KINDS)


class Watch:
    """Refuses a test that starts Python as a program and is not marked as end to end."""

    def __init__(self) -> None:
        self.item: pytest.Item | None = None

    def install(self) -> None:
        """Listens from now on; such a hook cannot be taken off again."""
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event != "subprocess.Popen" or self.item is None:
            return
        words = arguments[1] if isinstance(arguments[1], (list, tuple)) else [arguments[1]]
        if str(words[0]) == sys.executable and self.item.get_closest_marker("e2e") is None:
            raise AssertionError(f"{self.item.nodeid} starts a program: mark it with pytest.mark.e2e")
