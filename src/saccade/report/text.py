"""Numbers as people read them (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MISSING = "n/a"


def percent(value: float | None, digits: int = 1) -> str:
    """A share as percents; ``n/a`` where it is not defined."""
    return MISSING if value is None else f"{100 * value:.{digits}f} %"


def interval(entry: Mapping[str, Any], name: str, digits: int = 1) -> str:
    """A share with its 95 % limits, as ``93.2 % (89.1 to 97.0)``; those of accuracy have no prefix."""
    prefix = "" if name == "accuracy" else f"{name}_"
    low, high = entry.get(f"{prefix}low"), entry.get(f"{prefix}high")
    return spread(entry.get(name), low, high, digits)


def spread(value: float | None, low: float | None, high: float | None, digits: int = 1) -> str:
    """A share with its limits; without them where they are not known."""
    if value is None or low is None or high is None:
        return percent(value, digits)
    return f"{percent(value, digits)} ({100 * low:.{digits}f} to {100 * high:.{digits}f})"


def points(value: float | None) -> str:
    """A difference of shares in percentage points, signed."""
    return MISSING if value is None else f"{100 * value:+.1f}"


def amount(count: float) -> str:
    """Bytes with a binary unit."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024 or unit == "GiB":
            break
        count /= 1024
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"


def duration(seconds: float) -> str:
    """Seconds as minutes and seconds."""
    whole = round(seconds)
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60:02d} s"
