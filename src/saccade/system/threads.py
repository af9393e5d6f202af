"""How many CPU threads to compute with: no more than there are cores that nothing else keeps busy.

Threads of one product wait for each other, so one that shares its core with another program holds up all: on
two cores beside two busy programs Glance took five times as long with two threads as with one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

import torch

MOST_THREADS = 1024
"""More are a mistake, and end in a crash of the system's thread library rather than in an error."""

SAMPLE_SECONDS = 0.2
"""How long the cores are watched."""


def use(threads: int | None = None) -> int:
    """Sets how many threads torch computes with.

    Args:
        threads: How many; if None, as many cores as are free, and no more than torch would take.

    Returns:
        The number.

    Raises:
        ValueError: If the number is out of range.
    """
    if threads is None:
        threads = min(free_cores(), torch.get_num_threads())
    if not 1 <= threads <= MOST_THREADS:
        raise ValueError(f"threads are 1 to {MOST_THREADS}, got {threads}")
    torch.set_num_threads(threads)
    return threads


def free_cores(seconds: float = SAMPLE_SECONDS) -> int:
    """Cores this process may use and nothing else is using, at least one; all where that cannot be seen."""
    mine = allowed()
    if len(mine) < 2:
        return 1
    before = _times()
    time.sleep(seconds)
    found = idle_cores(before, _times(), mine)
    return len(mine) if found is None else max(1, min(len(mine), found))


def allowed() -> set[int]:
    """Numbers of the cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return set(range(os.cpu_count() or 1))


def idle_cores(
    before: Mapping[int, tuple[int, int]], after: Mapping[int, tuple[int, int]], mine: set[int]
) -> int | None:
    """Cores' worth of idle time between two looks, to the nearest whole; None where there is nothing to see.

    Args:
        before: Of every core, ticks it was idle and ticks in all.
        after: The same, later.
        mine: Cores that count.
    """
    idle = 0.0
    for core in mine:
        if core not in before or core not in after:
            return None
        rested, passed = (b - a for a, b in zip(before[core], after[core], strict=True))
        if passed <= 0:
            return None
        idle += rested / passed
    return int(idle + 0.5)


def _times() -> dict[int, tuple[int, int]]:
    """Ticks that every core was idle, and ticks in all; nothing where the system does not say."""
    found = {}
    try:
        with open("/proc/stat", encoding="ascii") as lines:
            for line in lines:
                name, *numbers = line.split()
                if name.startswith("cpu") and name != "cpu":
                    ticks = [int(number) for number in numbers[:8]]
                    found[int(name[3:])] = (ticks[3] + ticks[4], sum(ticks))
    except (OSError, ValueError):
        return {}
    return found
