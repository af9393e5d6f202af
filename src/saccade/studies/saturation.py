"""Where visual attention is saturated: VIG and attention per layer beside the cost of skipping that layer."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Sequence
from typing import Any

import torch

from saccade import models
from saccade.analysis.capture import bare, record
from saccade.analysis.saturation import MASSES, visual_maps
from saccade.analysis.study import UNTOUCHED, over
from saccade.evaluation.gate import rank_correlation
from saccade.report.markdown import difference, markdown
from saccade.samples import Sample
from saccade.studies import charts
from saccade.studies.base import Design, Finding, Result, Study, corrected, directions, is_free, is_harmless
from saccade.studies.bench import Bench
from saccade.studies.lines import Book, Line
from saccade.studies.skips import first
from saccade.studies.tables import limits

SERIES = (*MASSES, "change")
SMALL = 0.1
"""Share of the largest VIG below which a layer counts as saturated."""


def name_of(layer: int) -> str:
    """Name of a line."""
    return f"V-Skip in layer {layer} alone"


def design(bench: Bench) -> Design:
    """V-Skip in every layer alone; VIG and attention of every task on its own calibration samples."""
    lines = [
        Line(
            name_of(layer),
            first((layer,), 1),
            {"method": "vskip", "title": "V-Skip", "layer": layer, "budget": 1},
        )
        for layer in range(bench.depth)
    ]
    vig = {task: bench.own("vig", task) for task in bench.tasks}
    found = {}
    for task in bench.tasks:
        samples = [s for s in bench.questions.calibration(task, len(vig[task].samples)) if s.images]
        measure = functools.partial(attention, bench, samples)
        rows = bench.measured("attention", samples, measure, "attention", f"task {task}")
        found[task] = {name: over([row[name] for row in rows])["mean"] for name in SERIES}
    facts = {
        "vig": {task: scored.mean for task, scored in vig.items()},
        "attention": found,
        "series": {**MASSES, "change": "how much the map among visual rows changes from the layer before"},
        "probes": {task: len(scored.samples) for task, scored in vig.items()},
    }
    return Design(tuple(lines), facts)


def attention(bench: Bench, samples: Sequence[Sample]) -> list[dict[str, list[float | None]]]:
    """Shares of attention in every layer, and how the map among visual rows changes, sample by sample."""
    loaded, found = bench.loaded, []
    layers = loaded.family.parts(loaded.model).layers
    for number, sample in enumerate(samples):
        if bench.step is not None:
            bench.step(number, len(samples))
        run = record(loaded.model, models.inputs(loaded, [sample]), UNTOUCHED)
        with bare(loaded.model):
            found.append(visual_maps(loaded.family, layers, run)[0])
    return found


def judge(book: Book, design: Design) -> dict[str, Any]:
    """Cost of every layer on every task, and what goes with it."""
    depth, vig = book.bench.depth, design.facts["vig"]
    cost = {
        task: [book.of_line(book.lines[name_of(n)], (task,)).tasks[task].difference for n in range(depth)]
        for task in book.tasks
    }
    places = [(task, n) for task in book.tasks for n in range(depth)]
    small = [cost[t][n] for t, n in places if vig[t][n] < SMALL * max(vig[t])]
    large = [cost[t][n] for t, n in places if vig[t][n] >= SMALL * max(vig[t])]
    half = max(1, depth // 2)
    deep = sum(statistics.fmean(vig[t][half:]) < statistics.fmean(vig[t][:half]) for t in book.tasks)
    together = [_together(vig[t], [-(c.value or 0) for c in cost[t]]) for t in book.tasks]
    changes = [_together(vig[t][1:], design.facts["attention"][t]["change"][1:]) for t in book.tasks]
    findings = [
        Finding(
            "Visual attention saturates with depth: the deeper half of the layers adds least",
            "V-Skip, analysis of saturation",
            "supported" if deep == len(book.tasks) else "mixed" if deep else "not supported",
            f"Mean VIG of the deeper half is below that of the other half in {deep} of {len(book.tasks)} "
            "tasks.",
        ),
        Finding(
            "Skipping visual attention in a saturated layer costs nothing",
            "V-Skip, analysis of saturation",
            is_free(small),
            f"Of {len(small)} pairs of task and layer with a VIG below a tenth of the task's largest, "
            "skipping "
            f"that layer alone costs accuracy measurably, {corrected(len(small))}, in "
            f"{directions(small).count(-1)}, and less than a point in {sum(map(is_harmless, small))}; of the "
            f"{len(large)} others, corrected alike, in {directions(large).count(-1)} and "
            f"{sum(map(is_harmless, large))}. Rank correlation of VIG with the loss: {_mean(together)}.",
        ),
        Finding(
            "Where attention among visual rows hardly changes from layer to layer, it can be skipped",
            "V-Skip, analysis of saturation",
            _agree(changes),
            f"Rank correlation of VIG with the change of the map: {_mean(changes)}.",
        ),
    ]
    told = {task: [limits(one) for one in row] for task, row in cost.items()}
    return {"cost": told, "findings": [finding.to_dict() for finding in findings]}


def _together(a: Sequence[float | None], b: Sequence[float | None]) -> float | None:
    """Rank correlation of what both know; None where there is too little."""
    known = [(x, y) for x, y in zip(a, b, strict=True) if x is not None and y is not None]
    if len(known) < 3 or any(len({pair[i] for pair in known}) < 2 for i in (0, 1)):
        return None
    first_L, second_L = (torch.tensor([pair[i] for pair in known], dtype=torch.float64) for i in (0, 1))
    return rank_correlation(first_L, second_L)


def _mean(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "not defined"
    # These are limits over tasks, not of an interval, and say so.
    return f"mean over tasks {statistics.fmean(known):.2f}, lowest {min(known):.2f}, highest {max(known):.2f}"


def _agree(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "undecided"
    if min(known) > 0:
        return "supported"
    return "not supported" if statistics.fmean(known) <= 0 else "mixed"


def draw(result: Result) -> dict[str, bytes]:
    """VIG, attention and cost over layers."""
    return {
        "layers": charts.saturation(result["vig"], result["attention"], result["cost"]),
        "vig": charts.heat(result["vig"], "VIG by task and layer, over the task's largest"),
    }


def tell(result: Result) -> str:
    """VIG and cost of every layer, task by task."""
    depth = result["model"]["layers"]
    layers = [str(n) for n in range(depth)]
    cost = [[t, *(f"{100 * c['difference']:+.1f}" for c in row)] for t, row in result["cost"].items()]
    vig = [[t, *(f"{value:.3g}" for value in row)] for t, row in result["vig"].items()]
    change = [
        [t, *("" if v is None else f"{v:.2f}" for v in row["change"])]
        for t, row in result["attention"].items()
    ]
    mass = [
        [t, *("" if v is None else f"{v:.2f}" for v in row["visual_to_visual"])]
        for t, row in result["attention"].items()
    ]
    means = [[e["name"], difference(e["mean"])] for e in result["plans"]]
    return "\n\n".join(
        [
            "## Points of accuracy against dense, V-Skip in one layer alone",
            markdown(("task", *layers), cost),
            markdown(("mean over tasks", "difference in points"), means),
            "## VIG (nats)",
            markdown(("task", *layers), vig),
            "## Attention of visual rows to visual rows",
            markdown(("task", *layers), mass),
            "## Change of that map from the layer before (0 the same, 1 nothing in common)",
            markdown(("task", *layers), change),
        ]
    )


STUDY = Study(
    "saturation",
    "Where visual attention is saturated",
    "Are the layers whose visual attention adds little (VIG), or hardly changes, those that can be skipped "
    "at no "
    "cost, and are they where the paper says?",
    design,
    judge,
    draw,
    tell,
    layers=2,
)
