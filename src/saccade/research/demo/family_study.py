"""All methods at matched FLOPs: calibrate, check, evaluate; findings as plain data, pictures and files."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from saccade.core.layout import Layout
from saccade.evaluation import Comparison, compare
from saccade.evaluation.matched import RATIOS, LineupRow, lineup
from saccade.evaluation.orders import calibrated
from saccade.evaluation.runner import count_prompts, refusal
from saccade.inputs.samples import Sample
from saccade.measure import record
from saccade.models import Loaded
from saccade.report import figures
from saccade.research.demo.model import described, posed
from saccade.research.demo.page import render_family
from saccade.system.files import write_bytes, write_json, write_text
from saccade.system.journal import Journal

SCORES = ("vig", "ffn", "lc")
"""Calibrations that choose layers here; VTW withdraws from the end."""
REPORT, DATA, PICTURE = "report.html", "family.json", "family.png"
PRICED = 64
"""Prompts that FLOPs ratios are taken over."""


def rows_for(
    loaded: Loaded,
    questions: Sequence[Sample],
    orders: Mapping[str, Sequence[int]],
) -> tuple[LineupRow, ...]:
    """The line-up for a model; every plan has run on one question, and those that cannot are told why.

    Args:
        loaded: The model.
        questions: Prompts that the ratios are taken over.
        orders: Calibrated orders by score name.
    """
    prompts = count_prompts(loaded, questions[:PRICED])
    layouts = [Layout.single(visual, text, views=loaded.shape.views(visual)) for visual, text in prompts]
    weights = [float(count) for count in prompts.values()]
    rows = lineup(loaded.shape, layouts, orders, weights, loaded.family.name)
    return tuple(_tried(loaded, row, questions[0]) for row in rows)


def _tried(loaded: Loaded, row: LineupRow, question: Sample) -> LineupRow:
    if row.plan is None:
        return row
    reason = refusal(loaded, row.plan, question)
    return row.without_plan(reason) if reason else row


def results(loaded: Loaded, rows: Sequence[LineupRow], found: Comparison) -> dict[str, Any]:
    """What the comparison found, line by line, lines that could not run included.

    Args:
        loaded: The model.
        rows: The line-up.
        found: Answers of its plans.
    """
    scored = {name: plan.to_dict() for name, plan in found.plans.items()}
    return {
        "schema": 1,
        "model": described(loaded, found),
        "ratios": list(RATIOS),
        "dense": found.dense.to_dict(),
        "blind": None if found.blind is None else found.blind.to_dict(),
        "rows": [scored.get(row.name, {}) | row.to_dict() for row in rows],
    }


def family_study(
    loaded: Loaded,
    calibration: Sequence[Sample],
    questions: Sequence[Sample],
    *,
    seed: int = 0,
    batch_size: int = 32,
    max_new_tokens: int = 24,
    ledger: Journal | None = None,
    note: Callable[[str], None] = lambda text: None,
    step: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Compares every method at matched FLOPs on a few questions.

    Args:
        loaded: The model.
        calibration: Where the samples that choose layers are drawn from.
        questions: Held-out questions, as many of each task.
        seed: Seed of the draw.
        batch_size: Questions per batch.
        max_new_tokens: Longest answer in tokens.
        ledger: Keeps finished samples and answers, so that an interrupted run resumes.
        note: Called with a line of text when a part begins.
        step: Progress of the calibration.

    Returns:
        Plain data: ``results``, and how they came about.
    """
    start = time.perf_counter()
    note(f"calibrating the methods that choose layers, by {len(SCORES)} scores")
    scores = calibrated(loaded, calibration, list(SCORES), seed=seed, ledger=ledger, progress=step)
    note(f"setting every method to {', '.join(f'{100 * r:.0f}' for r in RATIOS)} % of the FLOPs")
    rows = rows_for(loaded, questions, {name: found.order for name, found in scores.items()})
    plans = {row.name: row.plan for row in rows if row.plan is not None}
    note(f"asking {len(questions)} questions under {len(plans) + 2} plans, dense and blind included")
    found = compare(
        loaded.model,
        loaded.processor,
        questions,
        plans,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        ledger=ledger,
    )
    return results(loaded, rows, found) | {
        "data": posed(found, len(questions), len(scores["vig"].samples)),
        "orders": {name: list(score.order) for name, score in scores.items()},
        "seconds": {"total": time.perf_counter() - start},
        "provenance": record(model=loaded.model, seed=seed),
    }


def write_family(data: dict[str, Any], folder: Path) -> dict[str, Path]:
    """Writes the data, the plot and the page into a folder, each file whole or not at all.

    Returns:
        Paths by what they are: ``report``, ``data``, ``picture``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    blind = data["dense"]["mean"]["blind"]
    picture = figures.accuracy_by_family(data["dense"], blind, data["rows"], data["data"]["questions"])
    return {
        "report": write_text(folder / REPORT, render_family(data, picture)),
        "data": write_json(folder / DATA, data),
        "picture": write_bytes(folder / PICTURE, picture),
    }
