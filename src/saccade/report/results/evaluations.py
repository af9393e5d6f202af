"""Evaluations as the report's records: what ``eval``, ``demo`` and the benchmarks of Glance write (pure)."""

from __future__ import annotations

from typing import Any

from saccade.core.shapes import SHAPES
from saccade.report.results.fields import Fields
from saccade.report.results.model import ModelId, Numbers, ReadComparison, Result, ScoredPlan

SCORE = ("accuracy", "n", "low", "high", "blind", "retention", "retention_above_blind", "difference")
LIMITS = tuple(f"{name}_{end}" for name in SCORE[5:] for end in ("low", "high"))
COST = ("flops_ratio", "kv_ratio", "kv_bytes", "visual_tokens", "text_tokens")

MOST_LAYERS = 1000
"""Layers past which a file is not believed."""


def rows_of(mean: float) -> int:
    """Rows of a prompt from their mean, within what a picture of a route can be made of."""
    return round(min(max(mean, 1), 10**5))


def read_comparison(data: Any, path: str) -> Result:
    """What ``saccade eval``, ``saccade demo`` and the benchmarks of Glance write."""
    top = Fields.of(data, path)
    found = comparison(top)
    orders = [order for order in top.part("orders").data.values() if isinstance(order, list)]
    # Where the file does not say how deep the model is, an order of its layers does.
    depth = max((len(order) for order in orders), default=None)
    lines = "lines" in data
    kind = "gate" if lines else "methods at matched FLOPs" if "ratios" in data else "evaluation"
    model = model_of(top, depth, found.dense.cost)
    return Result(path, kind, model, provenance(top), {"": found})


def comparison(top: Fields) -> ReadComparison:
    """The evaluation within an object that has ``dense`` and ``plans`` or ``rows``.

    Raises:
        ValueError: If a field is missing or of another kind.
    """
    listed = [*top.parts("plans"), *top.parts("rows")]
    entries = tuple(scored(one) for one in listed if one.data.get("mean") is not None)
    missing = tuple(
        (one.text("name"), one.text("reason", "")) for one in listed if one.data.get("mean") is None
    )
    headline = top.data.get("headline")
    if isinstance(headline, dict):
        headline = [name for key in ("layers", "flops") for name in headline.get(key) or []]
    checks = tuple(
        (line.text("what"), line.text("wanted"), line.text("found"), line.data.get("passed") is True)
        for line in top.parts("lines")
    )
    chosen = headline if isinstance(headline, list) else []
    scores = {}
    for name, score in top.part("calibration").data.items():
        if isinstance(score, dict) and isinstance(score.get("mean"), list):
            scores[name] = {"mean": Fields.of(score, f"{top.where}: calibration.{name}").numbers("mean")}
    return ReadComparison(
        scored(Fields.of(top.data.get("dense"), f"{top.where}: dense")),
        entries,
        missing,
        tuple(dict.fromkeys(str(name) for name in chosen)),
        scores,
        checks,
    )


def scored(entry: Fields) -> ScoredPlan:
    """One plan's scores.

    Raises:
        ValueError: If a field is missing or of another kind.
    """
    cost = entry.part("cost")
    timing = entry.part("timing")
    return ScoredPlan(
        entry.text("name"),
        entry.text("spec", ""),
        _score(Fields.of(entry.data.get("mean"), f"{entry.where}: mean")),
        {task: _score(one) for task, one in entry.named("tasks").items()},
        {key: cost.maybe(key) for key in COST},
        {key: timing.number(key) for key in ("ratio", "low", "high")} if timing.data else {},
        {task: _metrics(one.part("metrics")) for task, one in entry.named("tasks").items()},
    )


def _metrics(entry: Fields) -> Numbers:
    return {key: entry.maybe(key) for key in entry.data}


def _score(entry: Fields) -> Numbers:
    entry.number("n")
    if "accuracy" not in entry.data:
        # Null where a benchmark's metric is no share; missing is another thing.
        raise ValueError(f"{entry.where} has no number 'accuracy'")
    return {key: entry.maybe(key) for key in (*SCORE, *LIMITS, "gained", "lost", "p_value")}


def model_of(top: Fields, depth: int | None, cost: Numbers) -> ModelId:
    """The model of a file that has ``model`` as a name or as an object."""
    given = top.data.get("model")
    known = Fields.of({} if given is None or isinstance(given, str) else given, f"{top.where}: model")
    name = given if isinstance(given, str) else known.text("name", "unnamed model")
    name = "glance" if name == "Glance" else name
    layers = known.count("layers", MOST_LAYERS) if known.maybe("layers") is not None else depth
    if layers is None and name in SHAPES:
        layers = SHAPES[name].layers
    prompt = (
        None if rows is None else rows_of(rows)
        for rows in (cost.get("visual_tokens"), cost.get("text_tokens"))
    )
    return ModelId(name, known.text("weights", ""), layers, *prompt)


def provenance(*places: Fields) -> dict[str, Any]:
    """Where a result comes from: the first of the places that says so."""
    for place in places:
        found = place.part("provenance").data
        if found:
            return dict(found)
    return {}
