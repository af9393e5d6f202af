"""Where visual attention is saturated: VIG and attention per layer beside the cost of skipping that layer."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from saccade import models
from saccade.evaluation.statistics import UNDEFINED, Interval
from saccade.identity import code_of
from saccade.inputs.samples import Sample
from saccade.report.markdown import markdown
from saccade.report.text import difference
from saccade.research.analysis.capture import bare, record
from saccade.research.analysis.saturation import MASSES, visual_maps
from saccade.research.analysis.study import UNTOUCHED, VERSION, over
from saccade.research.gate import rank_correlation
from saccade.research.studies import charts
from saccade.research.studies.base import (
    SLACK,
    Design,
    Finding,
    Result,
    Study,
    corrected,
    directions,
    is_better,
    is_free,
    is_harmless,
)
from saccade.research.studies.bench import StudyBench
from saccade.research.studies.lines import Book, Line
from saccade.research.studies.skips import first
from saccade.research.studies.tables import limits

SERIES = (*MASSES, "change")
SMALL = 0.1
"""Share of the largest VIG below which a layer counts as saturated."""
HARDLY = 0.1
"""Change of a map (0 the same, 1 nothing in common) below which it hardly changes."""
RESAMPLES = 10_000
"""Draws of the bootstrap."""


def name_of(layer: int) -> str:
    """Name of a line."""
    return f"V-Skip in layer {layer} alone"


def design(bench: StudyBench) -> Design:
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
        samples = [s for s in bench.questions.calibration(task, len(vig[task].samples)) if s.visual]
        code = code_of(bench.loaded, analysis=VERSION)

        def measure(_: Path, samples: Sequence[Sample] = samples) -> list[Any]:
            return attention(bench, samples)

        rows = bench.measured("attention", samples, measure, "attention", f"task {task}", code)
        found[task] = {name: over([row[name] for row in rows])["mean"] for name in SERIES}
    facts = {
        "vig": {task: scored.mean for task, scored in vig.items()},
        "attention": found,
        "series": {**MASSES, "change": "how much the map among visual rows changes from the layer before"},
        "probes": {task: len(scored.samples) for task, scored in vig.items()},
    }
    return Design(tuple(lines), facts)


def attention(bench: StudyBench, samples: Sequence[Sample]) -> list[dict[str, list[float | None]]]:
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
    half, last = max(1, depth // 2), depth - 1
    findings = [
        fading(vig, half),
        saturated(vig, cost, half),
        changing({task: row["change"] for task, row in design.facts["attention"].items()}, cost, last),
    ]
    told = {task: [limits(one) for one in row] for task, row in cost.items()}
    return {"cost": told, "findings": [finding.to_dict() for finding in findings]}


def fading(vig: Mapping[str, Sequence[float]], half: int) -> Finding:
    """Verdict on what the deeper layers add, without the last one.

    Args:
        vig: VIG by task and layer.
        half: First layer of the deeper half.
    """
    halves = [(row[:half], row[half:-1]) for row in vig.values()]
    known = [(statistics.fmean(first), statistics.fmean(deep)) for first, deep in halves if first and deep]
    less = sum(deep < first for first, deep in known)
    return Finding(
        "Visual attention saturates with depth: the deeper half of the layers adds least",
        "V-Skip, analysis of saturation",
        {0: "not supported", len(known): "supported"}.get(less, "mixed") if known else "undecided",
        f"Mean VIG of the deeper half, without the last layer, is below that of the other half in {less} of "
        f"{len(known)} tasks.",
    )


def saturated(
    vig: Mapping[str, Sequence[float]], cost: Mapping[str, Sequence[Interval]], half: int
) -> Finding:
    """Verdict on layers of a small VIG, the halves of the model apart, without the last layer.

    Args:
        vig: VIG by task and layer.
        cost: Accuracy of skipping that layer alone minus dense, by task and layer.
        half: First layer of the deeper half.
    """
    last = len(next(iter(vig.values()))) - 1
    small = [(t, n) for t in vig for n in range(last) if vig[t][n] < SMALL * max(vig[t])]
    large = [cost[t][n] for t in vig for n in range(last) if vig[t][n] >= SMALL * max(vig[t])]
    gaps = [cost[t][n] for t, n in small]
    worse = directions(gaps)
    parts = []
    for name, low, high in (("first", 0, half), ("second", half, last)):
        here = [i for i, (_, n) in enumerate(small) if low <= n < high]
        parts.append(
            f"{sum(worse[i] < 0 for i in here)} of {len(here)} in the {name} half, where "
            f"{sum((gaps[i].value or 0.0) < -SLACK for i in here)} lose more than a point by estimate"
        )
    together = [_together(vig[t][:last], [-(c.value or 0.0) for c in cost[t][:last]]) for t in vig]
    return Finding(
        "Skipping visual attention in a saturated layer costs nothing",
        "V-Skip, analysis of saturation",
        is_free(gaps),
        f"Of {len(small)} pairs of task and layer with a VIG below a tenth of the task's largest, skipping "
        f"that layer alone costs accuracy measurably, {corrected(len(small))}, in {worse.count(-1)} "
        f"({'; '.join(parts)}), and less than a point in {sum(map(is_harmless, gaps))}; of the {len(large)} "
        f"others, corrected alike, in {directions(large).count(-1)} and {sum(map(is_harmless, large))}. "
        f"Rank correlation of VIG with the loss, {last} layers of each task: {_told(over_tasks(together))}. "
        f"Layer {last}, the last, is in none of these: nothing reads what its visual rows become, so its VIG "
        "and its loss are 0.",
    )


def changing(
    change: Mapping[str, Sequence[float | None]], cost: Mapping[str, Sequence[Interval]], last: int
) -> Finding:
    """Verdict on the change of the map among visual rows against the loss, without the last layer.

    Args:
        change: Change of the map from the layer before, by task and layer; None where it is not defined.
        cost: Accuracy of skipping that layer alone minus dense, by task and layer.
        last: The last layer.
    """
    known = {t: [n for n in range(last) if row[n] is not None] for t, row in change.items()}
    found = over_tasks(
        [
            _together([change[t][n] for n in at], [-(cost[t][n].value or 0.0) for n in at])
            for t, at in known.items()
        ]
    )
    values = [value for row in change.values() for value in row if value is not None]
    seen = ""
    if values:
        seen = f" The change lies between {min(values):.2f} and {max(values):.2f} over all tasks and layers"
        seen += "." if min(values) < HARDLY else ": a layer where the map hardly changes does not occur here."
    return Finding(
        "The less attention among visual rows changes from the layer before, the less it costs to skip it",
        "after V-Skip, analysis of saturation",
        is_better([found]),
        f"Rank correlation of the change with the loss, {max(map(len, known.values()), default=0)} layers of "
        f"each task (the last layer, which costs nothing in any case, is left out): {_told(found)}.{seen}",
    )


def _together(a: Sequence[float | None], b: Sequence[float | None]) -> float | None:
    """Rank correlation of what both know; None where there is too little."""
    known = [(x, y) for x, y in zip(a, b, strict=True) if x is not None and y is not None]
    if len(known) < 3 or any(len({pair[i] for pair in known}) < 2 for i in (0, 1)):
        return None
    first_L, second_L = (torch.tensor([pair[i] for pair in known], dtype=torch.float64) for i in (0, 1))
    return rank_correlation(first_L, second_L)


def over_tasks(values: Sequence[float | None]) -> Interval:
    """Mean over tasks with the 95 % limits of a bootstrap that draws tasks."""
    known = torch.tensor([value for value in values if value is not None], dtype=torch.float64)
    if len(known) < 2:
        return UNDEFINED
    drawn = torch.randint(len(known), (RESAMPLES, len(known)), generator=torch.Generator().manual_seed(0))
    low, high = known[drawn].mean(1).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Interval(float(known.mean()), low, high)


def _told(found: Interval) -> str:
    if found.value is None:
        return "not defined"
    return f"mean over tasks {found.value:.2f} ({found.low:.2f} to {found.high:.2f}, bootstrap over tasks)"


def draw(result: Result) -> dict[str, bytes]:
    """VIG, attention and cost over layers."""
    return {
        "layers": charts.saturation(result["vig"], result["attention"], result["cost"]),
        "vig": charts.heat(result["vig"], "VIG by task and layer, over the task's largest"),
    }


def tell(result: Result) -> str:
    """VIG and cost of every layer, task by task."""
    depth = result["model"]["layers"]

    def by_layer(rows: Mapping[str, Sequence[float | None]], form: str) -> str:
        told = [[task, *("" if v is None else format(v, form) for v in row)] for task, row in rows.items()]
        return markdown(("task", *map(str, range(depth))), told)

    cost = {task: [100 * one["difference"] for one in row] for task, row in result["cost"].items()}
    mass, change = (
        {task: row[name] for task, row in result["attention"].items()}
        for name in ("visual_to_visual", "change")
    )
    means = [[e["name"], difference(e["mean"])] for e in result["plans"]]
    return "\n\n".join(
        [
            "## Points of accuracy against dense, V-Skip in one layer alone",
            by_layer(cost, "+.1f"),
            markdown(("mean over tasks", "difference in points"), means),
            "## VIG (nats)",
            by_layer(result["vig"], ".3g"),
            "## Attention of visual rows to visual rows",
            by_layer(mass, ".2f"),
            "## Change of that map from the layer before (0 the same, 1 nothing in common)",
            by_layer(change, ".2f"),
        ]
    )


STUDY = Study(
    "saturation",
    "Where visual attention is saturated",
    "Are the layers whose visual attention adds little (VIG), or hardly changes, those that can be skipped "
    "at no cost, and are they where the paper says?",
    design,
    judge,
    draw,
    tell,
    layers=2,
    each_task=True,
)
