"""What each kind of result file holds, as far as the report shows it (pure)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from saccade.plans.schema import first_wrong
from saccade.report.results.model import (
    Finite,
    Number,
    Part,
    PricedPlan,
    ReadFinding,
    ScoredPlan,
    numbers_apart,
    picked,
)

MOST_LAYERS = 1000
"""Layers past which a file is not believed."""
PHASE = ("dense_s", "plan_s", "time_ratio", "flops_ratio", "low", "high", "efficiency", "captured")

Depth = Annotated[int, Field(ge=1, le=MOST_LAYERS)]
Count = Annotated[int, Field(ge=1, le=10**6)]
Ratios = Annotated[dict[str, Number], picked(*PHASE, needed=("time_ratio", "flops_ratio"))]
Prefill = Annotated[dict[str, Number], picked(*PHASE, needed=PHASE[:4])]
Decode = Annotated[dict[str, Number], picked(*PHASE, perhaps=True)]

Kind = TypeVar("Kind", bound=Part)


def taken(kind: type[Kind], data: Any, path: str) -> Kind:
    """A part of a file, checked.

    Raises:
        ValueError: Naming the file and the first field that is wrong.
    """
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise ValueError(f"{path}: {first_wrong(error)}") from None


@contextmanager
def whole(path: str, of: str) -> Iterator[None]:
    """What is told of a file that may lack anything.

    Args:
        path: The file.
        of: What wrote it.

    Raises:
        ValueError: Naming the file, within the block, where something is missing or wrong.
    """
    try:
        yield
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, StopIteration) as error:
        raise ValueError(f"{path} is not a whole result of {of}: {type(error).__name__} {error}") from error


class ModelEntry(Part):
    """The model of an evaluation."""

    name: str = "unnamed model"
    weights: str = ""
    layers: Depth | None = None


class ScoreOfLayers(Part):
    """A score of every layer."""

    mean: list[Finite]


class GateEntry(Part):
    """A line of a gate."""

    what: str
    wanted: str
    found: str
    passed: Any = False


def _only_scores(data: Any) -> Any:
    if not isinstance(data, dict):
        return data
    return {k: v for k, v in data.items() if isinstance(v, dict) and isinstance(v.get("mean"), list)}


class EvaluationFile(Part):
    """What ``eval``, ``demo``, ``study`` and the benchmarks of Glance write."""

    dense: ScoredPlan
    plans: list[ScoredPlan] = []
    rows: list[ScoredPlan] = []
    model: Annotated[
        ModelEntry, BeforeValidator(lambda data: {"name": data} if isinstance(data, str) else data)
    ] = ModelEntry()
    weights_hash: str = ""
    headline: Any = None
    lines: list[GateEntry] | None = None
    # Not shown; what is wrong in it tells of a broken file.
    calibration: Annotated[dict[str, ScoreOfLayers], BeforeValidator(_only_scores)] = {}
    orders: dict[str, Any] = {}
    ratios: Any = None
    provenance: dict[str, Any] = {}
    study: str = ""
    title: str = ""
    question: str = ""
    findings: list[ReadFinding] = []


class Peak(Part):
    """One side of a bench."""

    peak_memory_bytes: Number = None


class ReportedRun(Part):
    """One plan that was timed."""

    name: str
    plan: str
    layers: Count
    depth: Depth
    batch: Count
    visual: Count
    text: Count
    new_tokens: Count
    prefill: Prefill
    decode: Decode = {}
    dense: Peak = Peak()
    planned: Peak = Peak()
    kv_ratio: Number = None
    vision_s: Number = None
    vision_made_up: Any = False
    provenance: dict[str, Any] = {}


class BenchFile(Part):
    """What ``bench`` and the benchmarks of width write, where it has several runs."""

    plans: list[ReportedRun] = []
    runs: list[ReportedRun] = []
    provenance: dict[str, Any] = {}


class ShapeEntry(Part):
    """The decoder that was priced."""

    name: str
    layers: Depth


class CostFile(Part):
    """What ``cost`` writes."""

    shape: ShapeEntry
    visual: Count
    text: Finite
    plans: list[PricedPlan] = []
    provenance: dict[str, Any] = {}


class TrainingStepEntry(Part):
    """One plan that was timed in training."""

    plan: str
    numbers: Ratios

    _apart = model_validator(mode="before")(numbers_apart)


class TrainingStepFile(Part):
    """What ``benchmarks/skip_ffn_step.py`` writes: forward and backward take the place of the prefill."""

    shape: ShapeEntry
    batch: Count
    visual: Count
    text: Count
    runs: list[TrainingStepEntry] = []
    provenance: dict[str, Any] = {}
