"""Tables of predicted times beside measured and published ones, from ``predicted_times.json``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from docsite.glance_tables import load, missing
from saccade.report.markdown import markdown
from saccade.report.text import points

FILE, COMMAND = "predicted_times.json", "python benchmarks/predicted_times.py"


def times_here(results: Path) -> str:
    """Ratios to dense that the table of measured steps predicts, beside those that were timed."""
    found = load(results / FILE)
    if found is None or not found["here"]:
        return missing(COMMAND)
    rows = [
        [
            one["model"],
            f"`{one['spec']}`",
            f"{one['predicted']:.3f}",
            f"{one['measured']:.3f}",
            _off(one["off"]),
        ]
        for one in found["here"]
    ]
    origin = found["provenance"]
    clock = "seconds that the process computed, one thread" if origin["clock"] == "own" else "wall clock"
    told = f"On {origin['device']}, {origin['dtype']}, batch 1; {clock}."
    return markdown(("decoder", "plan", "predicted", "measured", "off"), rows, right_from=2) + f"\n\n{told}"


def times_published(results: Path) -> str:
    """Latencies on an RTX 3090 that V-Skip's paper prints, beside those predicted for one."""
    found = load(results / FILE)
    if found is None:
        return missing(COMMAND)
    rows = [
        [
            one["model"],
            f"`{one['spec']}`",
            f"{one['published_ms']:.1f}",
            f"{one['predicted_ms']:.1f}",
            f"{one['published']:.3f}",
            f"{one['predicted']:.3f}",
            _off(one["off"]),
        ]
        for one in found["published"]
    ]
    head = ("model", "plan", "published, ms", "predicted, ms", "published ratio", "predicted ratio", "off")
    return markdown(head, rows, right_from=2)


def _off(share: float) -> str:
    return f"{points(share)} %"


TIME_TABLES: dict[str, Callable[[Path], str]] = {
    "times-here": times_here,
    "times-published": times_published,
}
"""Tables of times by the name in the marker."""
