"""Lines of V-Skip under many calibration draws, each set of layers asked once, and their spread."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from saccade.report.markdown import markdown
from saccade.report.text import percent
from saccade.research.studies import charts
from saccade.research.studies.base import directions
from saccade.research.studies.bench import StudyScores
from saccade.research.studies.lines import Book, Line
from saccade.research.studies.skips import first
from saccade.research.studies.tables import limits

POOL = "the whole pool"


def dots(result: Mapping[str, Any]) -> bytes:
    """Picture of the accuracy of every draw of V-Skip's layers."""
    title = f"Accuracy of V-Skip in {result['layers']} layers over calibration draws"
    return charts.dots(result["groups"], result["dense"]["mean"], title)


def lines(found: Mapping[str, Sequence[StudyScores]], budget: int, pool: StudyScores) -> tuple[Line, ...]:
    """A line for every draw of every group, and one for the whole pool."""
    about = {"method": "vskip", "title": "V-Skip", "budget": budget}
    made = [Line(POOL, first(pool.order, budget), {**about, "group": POOL, "draw": 0})]
    for group, draws in found.items():
        for number, scored in enumerate(draws):
            told = {**about, "group": group, "draw": number}
            made.append(Line(f"{group}, draw {number + 1}", first(scored.order, budget), told))
    return tuple(made)


def groups(book: Book, apart: str = "") -> dict[str, dict[str, Any]]:
    """Accuracies of every group of draws, and differences to the plan of the whole pool.

    Args:
        book: The finished cells.
        apart: A group whose lines are no draws.
    """
    found: dict[str, dict[str, Any]] = {}
    for line in book.lines.values():
        if line.name == POOL or line.plan is None or line.about["group"] == apart:
            continue
        gap = book.against(line.name, POOL)
        group = found.setdefault(line.about["group"], {"accuracies": [], "against_pool": []})
        group["accuracies"].append(book.of_line(line).mean.accuracy.value)
        group["against_pool"].append(gap)
    for group in found.values():
        values, gaps = group["accuracies"], group["against_pool"]
        group["against_pool"] = [
            limits(gap) | {"below": side < 0} for gap, side in zip(gaps, directions(gaps), strict=True)
        ]
        group |= {
            "draws": len(values),
            "mean": statistics.fmean(values),
            "sd": statistics.stdev(values) if len(values) > 1 else 0.0,
            "least": min(values),
            "most": max(values),
        }
    return found


def table(result: Mapping[str, Any]) -> str:
    """Accuracy over draws, group by group.

    Raises:
        ValueError: If the result lacks the plan of the whole pool.
    """
    pool = next((entry for entry in result["plans"] if entry["group"] == POOL), None)
    if pool is None:
        raise ValueError(f"there is no plan of {POOL}, which the draws are compared with")
    rows = [
        [
            name, str(one["draws"]), percent(one["mean"]), percent(one["sd"]), percent(one["least"]),
            percent(one["most"]), str(sum(gap["below"] for gap in one["against_pool"])),
        ]
        for name, one in result["groups"].items()
    ]  # fmt: skip
    rows.append([POOL, "1", percent(pool["mean"]["accuracy"]), "", "", "", ""])
    head = ("draws", "n", "mean accuracy", "sd", "lowest", "highest", "below the pool's plan (Holm)")
    return markdown(head, rows)
