"""What the result files hold, whatever wrote them: small plain records that every section draws from.

What stands in files as it is here is read by pydantic: nothing is converted, null is as good as missing, and
what the report does not show is passed over.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from saccade.plans.plan import Plan

Numbers = Mapping[str, float | None]
Number = Annotated[float | None, AfterValidator(lambda v: None if v is None or not math.isfinite(v) else v)]
"""A number of a file; None where it is null or not finite."""
Finite = Annotated[float, Field(allow_inf_nan=False)]

SIDES = ("retention", "retention_above_blind", "difference")
SCORE = (
    *("accuracy", "n", "low", "high", "blind", "gained", "lost", "p_value"),
    *(f"{name}{end}" for name in SIDES for end in ("", "_low", "_high")),
)
LIMITS = ("ratio", "low", "high")
COST = ("flops_ratio", "kv_ratio", "kv_bytes", "visual_tokens", "text_tokens", "whole_ratio", "tower_share")
PRICE = (
    *("tflops", "dense_tflops", "ratio", "executed_ratio", "kv_bytes", "dense_kv_bytes", "kv_ratio"),
    *("equivalent_tokens", "visual_tokens", "score_tflops", "decode_gflops", "dense_decode_gflops"),
    *("whole_ratio", "tower_share"),
)


class Part(BaseModel):
    """An object of a result file."""

    model_config = ConfigDict(strict=True, frozen=True, hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _null_is_missing(cls, data: Any) -> Any:
        return {k: v for k, v in data.items() if v is not None} if isinstance(data, dict) else data


def picked(*keys: str, needed: tuple[str, ...] = (), perhaps: bool = False) -> BeforeValidator:
    """For a dictionary of numbers: these keys of an object, None where they are missing.

    Args:
        *keys: What is read.
        needed: Of these, what has to be there and finite; ``accuracy`` may be null.
        perhaps: Whether the object may be empty, and stays so.
    """

    def pick(data: Any) -> Any:
        if not isinstance(data, dict) or (perhaps and not data):
            return data
        for key in needed:
            found = data.get(key)
            # Null where a benchmark's metric is no share; missing is another thing.
            null = key == "accuracy" and key in data
            if (found is None and not null) or (isinstance(found, float) and not math.isfinite(found)):
                raise PydanticCustomError("number_needed", "a number '{key}' is needed", {"key": key})
        return {key: data.get(key) for key in keys}

    return BeforeValidator(pick)


Score = Annotated[dict[str, Number], picked(*SCORE, needed=("n", "accuracy"))]
Timing = Annotated[dict[str, Number], picked(*LIMITS, needed=LIMITS, perhaps=True)]


@dataclass(frozen=True)
class ModelId:
    """Which model a result is of.

    Attributes:
        name: As the file has it.
        weights: Digest of its weights; empty where the file has none.
        layers: Decoder layers; None where nothing tells.
        visual: Visual rows of a typical prompt.
        text: Text rows of a typical prompt.
    """

    name: str
    weights: str = ""
    layers: int | None = None
    visual: int | None = None
    text: int | None = None


class ScoredPlan(Part):
    """How one plan answered.

    Attributes:
        name: What the file calls it.
        spec: The plan, resolved, as a spec string.
        mean: Score over all tasks: ``accuracy``, ``low``, ``high``, ``n``, ``blind``, ``difference`` ...;
            empty where it could not run.
        tasks: Score by task.
        cost: ``flops_ratio``, ``kv_ratio``, ``kv_bytes``.
        timing: ``ratio``, ``low``, ``high`` of the measured prefill; empty where nothing was timed.
        metrics: Metrics by task that a benchmark's own judge gave, as it names them.
        reason: Why it could not run.
    """

    name: str
    spec: str = ""
    mean: Score = {}
    tasks: dict[str, Score] = {}
    cost: Annotated[dict[str, Number], picked(*COST)] = dict.fromkeys(COST)
    timing: Timing = {}
    metrics: dict[str, dict[str, Number]] = {}
    reason: str = ""

    @model_validator(mode="before")
    @classmethod
    def _metrics_beside_tasks(cls, data: Any) -> Any:
        tasks = data.get("tasks") if isinstance(data, dict) else None
        if not isinstance(tasks, dict):
            return data
        told = {name: one.get("metrics") or {} for name, one in tasks.items() if isinstance(one, dict)}
        return {**data, "metrics": told}


@dataclass(frozen=True)
class ReadComparison:
    """Plans beside the stock model on the same questions.

    Attributes:
        dense: The stock model.
        entries: The plans that ran.
        missing: Names of those that could not run, with the reason.
        headline: Names of the plans that the file puts first; may be empty.
        checks: Lines of a gate: what, wanted, found, passed.
    """

    dense: ScoredPlan
    entries: tuple[ScoredPlan, ...]
    missing: tuple[tuple[str, str], ...] = ()
    headline: tuple[str, ...] = ()
    checks: tuple[tuple[str, str, str, bool], ...] = ()


@dataclass(frozen=True)
class Timed:
    """One plan timed beside the stock model.

    Attributes:
        plan: As it was asked for.
        setting: Layers built, batch and rows, in words.
        prefill: ``dense_s``, ``plan_s``, ``time_ratio``, ``low``, ``high``, ``flops_ratio``, ``captured``.
        decode: Likewise per token; empty where none was timed.
        kv_ratio: KV cache over that of the stock model.
        memory: Peak memory over that of the stock model; None where it is not known.
        vision_s: Seconds of the vision tower for one image; None where it was not timed.
        made_up: Whether it saw made-up numbers of a tower.
    """

    plan: str
    setting: str
    prefill: Numbers
    decode: Numbers
    kv_ratio: float | None
    memory: float | None
    vision_s: float | None
    made_up: bool


def numbers_apart(data: Any) -> Any:
    """An object whose numbers stand beside names, with the numbers as one field."""
    if not isinstance(data, Mapping):
        return data
    names, whole = ("plan", "resolved"), data.get("whole")
    numbers = {key: value for key, value in data.items() if key not in names}
    if isinstance(whole, Mapping):
        numbers |= {"whole_ratio": whole.get("ratio"), "tower_share": whole.get("tower_share")}
    return {name: data[name] for name in names if name in data} | {"numbers": numbers}


class PricedPlan(Part):
    """One plan's cost in closed form: ``tflops``, ``ratio``, ``executed_ratio``, ``kv_bytes`` and so on."""

    plan: str
    resolved: str
    numbers: Annotated[dict[str, Number], picked(*PRICE, needed=("tflops", "ratio", "kv_ratio"))]

    _apart = model_validator(mode="before")(numbers_apart)


@dataclass(frozen=True)
class Planned:
    """A plan, and how its layers were chosen.

    Attributes:
        plan: The plan.
        metric: The score that chose them; empty if none did.
        mean: The score of every layer.
        samples: Scores by sample; may be empty.
        drawn: Which samples they were, in words.
    """

    plan: Plan
    metric: str
    mean: tuple[float, ...]
    samples: tuple[tuple[float, ...], ...]
    drawn: str


class ReadFinding(Part):
    """What a study says about a claim of a paper: claim, where it is made, verdict, and what was seen."""

    claim: str
    source: str = ""
    verdict: str
    found: str = ""


@dataclass(frozen=True)
class StudyText:
    """What a study tells beside its evaluation.

    Attributes:
        name: Name on the command line.
        title: What it is called.
        question: What it asks.
        findings: What it says about claims.
        markdown: Its own tables, as Markdown.
        pictures: Its own pictures, PNG bytes by name.
    """

    name: str
    title: str
    question: str
    findings: tuple[ReadFinding, ...]
    markdown: str
    pictures: Mapping[str, bytes]


@dataclass(frozen=True)
class Result:
    """One result file.

    Attributes:
        path: As the user gave it.
        kind: What wrote it, in words.
        model: The model.
        provenance: Command, date, versions, device, seed and so on, as the file has them.
        comparisons: Evaluations in it, by title.
        timed: Benches.
        priced: Costs.
        planned: A plan, and how its layers were chosen.
        told: What a study tells.
    """

    path: str
    kind: str
    model: ModelId
    provenance: Mapping[str, Any]
    comparisons: Mapping[str, ReadComparison] = field(default_factory=dict)
    timed: tuple[Timed, ...] = ()
    priced: tuple[PricedPlan, ...] = ()
    planned: Planned | None = None
    told: StudyText | None = None
