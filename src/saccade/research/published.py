"""Numbers that papers print, read from ``docs/published.toml``, which the wheel carries along."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

LAYERS, ROWS = 32, 576
"""Decoder layers and visual rows of LLaVA-1.5-7B, which the operating points are of."""


@dataclass(frozen=True)
class PublishedPoint:
    """What a paper's table prints for one method at one setting of LLaVA-1.5-7B.

    Attributes:
        name: What was run, in words.
        source: The paper and its table.
        method: Registered name; two joined by ``+``.
        retention: Mean over the paper's benchmarks of the method's score over the dense one, 1 for no loss.
        layers: How many of its layers are skipped.
        depth: First layer that runs with fewer rows.
        rows: Visual rows that are left, averaged over layers where a method cuts in several.
        pooled: Whether one choice of layers serves all tasks; else each task has its own.
    """

    name: str
    source: str
    method: str
    retention: float
    layers: int | None = None
    depth: int | None = None
    rows: int | None = None
    pooled: bool = False

    @property
    def budget(self) -> str:
        """What methods are ranked at: as many layers, or as many rows from the same table."""
        return f"{self.layers} of {LAYERS} layers" if self.rows is None else f"{self.rows} of {ROWS} rows"


def path() -> Path:
    """The file: in the wheel beside this one, in a checkout under ``docs``.

    Raises:
        ValueError: If it is in neither place.
    """
    here = Path(__file__).resolve()
    for found in (here.with_name("published.toml"), here.parents[3] / "docs" / "published.toml"):
        if found.exists():
            return found
    raise ValueError("the table of published numbers, docs/published.toml, is missing from this installation")


def points() -> tuple[PublishedPoint, ...]:
    """The operating points that an embedded model is held against, as they stand in the file."""
    data = tomllib.loads(path().read_text("utf-8"))
    return tuple(
        PublishedPoint(
            source=f"{data['paper'][one['paper']]['title']}, {one['where']}",
            retention=one["retention"] / 100,
            pooled=one.get("calibration") == "pooled",
            **{key: one[key] for key in ("name", "method", "layers", "depth", "rows") if key in one},
        )
        for one in data["point"]
    )
