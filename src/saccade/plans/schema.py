"""What a plan file holds, field by field, so that a wrong one is named by its path.

Fields that are known are typed strictly. Unknown ones are refused beside ``methods``, where they would change
what runs; in ``model`` and ``calibration`` they are kept as they are, for those of a newer version that reads
the same schema only say more. A file whose meaning changes gets a higher schema, which older versions refuse.
"""

from __future__ import annotations

import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import cache
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from saccade.core.text import is_text, printable, short
from saccade.methods import METHODS, Method
from saccade.methods.base import MOST_LAYERS, MOST_SEED
from saccade.plans.names import check_method

SCHEMA = 2
"""Version of the plan file; files of a newer schema are refused."""

PLAIN = 1
"""What a plan without an adapter is written as, which every version reads."""

MOST_METHODS = 100
"""Methods that a plan file may hold."""

Metric = Literal["vig", "lc", "ffn", "withdrawal", "cosine", "random", "attention"]
"""Scores that choose layers, and what rows are fitted to."""

Count = Annotated[int, Field(ge=0, le=2**53)]
Size = Annotated[int, Field(ge=1, le=2**40)]
Layer = Annotated[int, Field(ge=0, lt=MOST_LAYERS)]
Depth = Annotated[int, Field(ge=1, le=MOST_LAYERS)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{8,128}$")]


class _Strict(BaseModel):
    """Nothing is converted: the file is taken as it is written, or refused."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False, hide_input_in_errors=True)


class TextSizes(_Strict):
    """Sizes of the decoder a plan was made for."""

    layers: Depth
    hidden: Size | None = None
    heads: Size | None = None
    kv_heads: Size | None = None
    head_dim: Size | None = None
    ffn: Size | None = None
    vocab: Size | None = None


class ModelPrint(_Strict):
    """Fingerprint of the configuration of the model a plan was made for (``Family.identity``)."""

    model_type: str
    text_type: str | None = None
    text: TextSizes = Field(default=None)  # type: ignore[assignment]  # may be missing, but not be null
    vision: dict[str, Any] | None = None
    skip_vision: dict[str, Any] | None = None


class LayerScores(_Strict):
    """Scores of layers: by layer over samples, and sample by sample."""

    mean: list[float]
    sd: list[Annotated[float, Field(ge=0)]] | None = None
    n: Count | None = None
    samples: list[list[float]] | None = None


Share = Annotated[float, Field(ge=0, le=1)]


class FitRecord(_Strict):
    """How rows were fitted: the share of the attention that may be lost, and what is alive in every layer."""

    alpha: Share
    left: list[Share]
    images: Count | None = None


class AskedOfCalibration(_Strict):
    """What was asked of the calibration."""

    budget: Count | None = None
    flops: Annotated[float, Field(gt=0, le=1)] | None = None
    time: Annotated[float, Field(gt=0, le=1)] | None = None
    kv: Annotated[float, Field(gt=0, le=1)] | None = None
    max_loss: Annotated[float, Field(gt=0, le=100)] | None = None
    on: str | None = None


class CalibrationCost(_Strict):
    """What the calibration took against brute force."""

    flops_ratio: Annotated[float, Field(ge=0)] | None = None
    replay_flops: Annotated[float, Field(ge=0)] | None = None
    brute_force_flops: Annotated[float, Field(ge=0)] | None = None
    seconds_ratio: Annotated[float, Field(ge=0)] | None = None
    replay_seconds: Annotated[float, Field(ge=0)] | None = None
    brute_force_seconds: Annotated[float, Field(ge=0)] | None = None
    largest_difference: Annotated[float, Field(ge=0)] | None = None
    sample: str | None = None


class Source(_Strict):
    """The checkout that the calibration ran from."""

    commit: str
    dirty: bool


class Predicted(_Strict):
    """What a search measured of a plan, on the samples it saw."""

    cost: str
    ratio: Annotated[float, Field(gt=0)]
    kl: Annotated[float, Field(ge=0)]
    agreement: Annotated[float, Field(ge=0, le=1)]
    samples: Count


class HeldOut(_Strict):
    """What samples that a search has not seen say of a plan: shares of accuracy lost, and at worst."""

    ratio: Annotated[float, Field(gt=0)]
    samples: Count
    loss: float
    bound: float
    candidates: Count
    tasks: dict[str, list[float]]
    within: bool | None = None
    whole_ratio: Annotated[float, Field(gt=0)] | None = None
    tower_share: Annotated[float, Field(ge=0, le=1)] | None = None


class UnsureMargin(_Strict):
    """The guard at run time: below which lead of the first token the dense model answers."""

    margin: Annotated[float, Field(ge=0, le=1)]
    share: Annotated[float, Field(ge=0, le=1)]
    ratio: Annotated[float, Field(gt=0)]
    loss: float
    bound: float


class TuningRecord(_Strict):
    """How a plan was tuned."""

    search: dict[str, Any]
    predicted: Predicted
    held_out: HeldOut
    unsure: UnsureMargin | None = None


class HealingRecord(_Strict):
    """How a plan was healed."""

    steps: Count
    samples: Count
    settings: dict[str, Any]
    data_hash: Digest | None = None
    questions: list[str] | None = None


class Calibration(_Strict):
    """How the layers of a plan were chosen."""

    asked: AskedOfCalibration | None = None
    metric: Metric | None = None
    direction: Literal["perturbed-full", "full-perturbed"] | None = None
    position: str | None = None
    answer_tokens: Annotated[int, Field(ge=1)] | None = None
    eta: Annotated[float, Field(ge=0)] | None = None
    scores: LayerScores | None = None
    fit: FitRecord | None = None
    order: list[Layer] | None = None
    samples: list[str] | None = None
    tasks: list[str] | None = None
    draw: Literal["all", "global", "stratified"] | None = None
    seed: Annotated[int, Field(ge=0, le=MOST_SEED)] | None = None
    data_hash: Digest | None = None
    weights_hash: Digest | None = None
    date: str | None = None
    versions: dict[str, str] | None = None
    source: Source | None = None
    device: str | None = None
    dtype: str | None = None
    opening: dict[str, Any] | None = None
    cost: CalibrationCost | None = None
    tuned: TuningRecord | None = None
    healed: HealingRecord | None = None


class AdapterFile(_Strict):
    """The adapter of a healed plan."""

    model_config = ConfigDict(extra="forbid")

    folder: Annotated[str, Field(min_length=1)]
    digest: Digest


class PlanFile(_Strict):
    """All of a plan file but its methods, which their own classes read."""

    model_config = ConfigDict(extra="forbid")

    schema_: Annotated[int, Field(alias="schema")]
    methods: Annotated[list[Any], Field(max_length=MOST_METHODS)]
    model: ModelPrint | None = None
    calibration: Calibration | None = None
    adapter: AdapterFile | None = None


def check(data: Any, source: str) -> None:
    """Refuses what is not a plan file.

    Args:
        data: What the file holds, as JSON gives it.
        source: What to call it in errors.

    Raises:
        ValueError: Naming the first wrong field by its path.
    """
    if not isinstance(data, Mapping) or "methods" not in data or "schema" not in data:
        raise ValueError(f"{source} is not a plan: it needs 'schema' and 'methods'")
    if type(data["schema"]) is not int or not 1 <= data["schema"] <= SCHEMA:
        raise ValueError(
            f"{source} has schema {short(data['schema'], 40)}; this version of saccade reads up to {SCHEMA}"
        )
    if data["schema"] == PLAIN and "adapter" in data:
        raise ValueError(f"{source}: adapter: a plan with one has schema {SCHEMA}, not {PLAIN}")
    # An empty part says nothing: a plan for any model, or one whose layers were chosen by hand.
    given = {key: value for key, value in data.items() if not (key in _PARTS and value == {})}
    try:
        read = PlanFile.model_validate(given)
    except ValidationError as error:
        raise ValueError(f"{source}: {first_wrong(error)}") from None
    except RecursionError:
        raise ValueError(f"{source} is nested too deeply") from None
    for where in _PARTS:
        if data.get(where, {}) is None:
            raise ValueError(f"{source}: {where}: an object is needed, got null")
    if (torn := _torn_text(data, ())) is not None:
        raise ValueError(f"{source}: {_path(torn)}: holds half of a surrogate pair, which is no text")
    if read.calibration is not None:
        sizes = None if read.model is None else read.model.text
        depth = None if sizes is None else sizes.layers
        for wrong in _contradictions(read.calibration, depth):
            raise ValueError(f"{source}: calibration.{wrong}")


_PARTS = ("model", "calibration")


def _torn_text(value: Any, places: tuple[int | str, ...]) -> tuple[int | str, ...] | None:
    """Where a text is that no file can be written with, or None."""
    if isinstance(value, str):
        return None if is_text(value) else places
    inner: Iterable[tuple[int | str, Any]] = ()
    if isinstance(value, Mapping):
        named = next((key for key in value if not is_text(key)), None)
        if named is not None:
            return (*places, named)
        inner = value.items()
    elif isinstance(value, list) and value and not isinstance(value[0], int | float):
        inner = enumerate(value)
    return next((found for key, one in inner if (found := _torn_text(one, (*places, key))) is not None), None)


def unknown_fields(data: Mapping[str, Any]) -> list[str]:
    """Paths of fields of a plan file that this version keeps but does not know, such as mistyped ones."""
    given = {key: value for key, value in data.items() if not (key in _PARTS and value == {})}
    return list(_extra(PlanFile.model_validate(given), ""))


def read_method(entry: Any, where: str) -> Method:
    """A method of a plan file: its name, and its parameters by name.

    Raises:
        ValueError: Naming the wrong parameter by its path.
    """
    if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
        raise ValueError(f"{where}: an object with the name of a method is needed, got {short(entry, 60)}")
    name = entry["name"]
    try:
        check_method(name, METHODS)
    except ValueError as error:
        raise ValueError(f"{where}.name: {error}") from None
    cls = METHODS[name]
    hints = typing.get_type_hints(cls)
    known = [each.name for each in fields(cls)]
    values: dict[str, Any] = {}
    for key, value in entry.items():
        if key == "name":
            continue
        if key not in known:
            raise ValueError(f"{where}.{_key(key)}: {name} does not take it; it takes {', '.join(known)}")
        values[key] = tuple(value) if isinstance(value, list) else value
        try:
            _adapter(hints[key]).validate_python(values[key])
        except ValidationError as error:
            says = dict.fromkeys(_says(one) for one in error.errors(include_url=False))
            wanted = " or ".join(word.removesuffix(" is needed") for word in says)
            raise ValueError(f"{where}.{key}: {wanted} is needed, got {short(value, 60)}") from None
    try:
        return cls(**values)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


@cache
def _adapter(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(hint, config=ConfigDict(strict=True))


def _contradictions(found: Calibration, depth: int | None) -> Iterator[str]:
    """What cannot be true together, the first of it by its path."""
    order, scores, fit = found.order, found.scores, found.fit
    if fit is not None and depth is not None and len(fit.left) != depth:
        yield f"fit.left: a share for each of the model's {depth} layers is needed, got {len(fit.left)}"
    if scores is not None:
        mean = scores.mean
        # A random order has no scores.
        if depth is not None and mean and len(mean) != depth:
            yield f"scores.mean: a score for each of the model's {depth} layers is needed, got {len(mean)}"
        if scores.sd is not None and len(scores.sd) != len(mean):
            yield f"scores.sd: as many as scores.mean are needed, {len(mean)}, got {len(scores.sd)}"
        for number, row in enumerate(scores.samples or ()):
            if len(row) != len(mean):
                yield f"scores.samples[{number}]: {len(mean)} scores are needed, got {len(row)}"
        if scores.n is not None and scores.samples is not None and scores.n != len(scores.samples):
            yield f"scores.n: says {scores.n}, but scores.samples has {len(scores.samples)}"
        depth = depth or len(mean) or None
    if order is None:
        return
    seen: set[int] = set()
    for place, layer in enumerate(order):
        if layer in seen:
            yield f"order[{place}]: layer {layer} stands there twice"
        if depth is not None and layer >= depth:
            yield f"order[{place}]: layer {layer}, but the model has {depth} (0-{depth - 1})"
        seen.add(layer)
    # Withdrawal orders only the layers that may go.
    if found.metric != "withdrawal" and len(order) != (depth or max(order, default=-1) + 1):
        yield f"order: every one of the {depth or max(order) + 1} layers once is needed, got {len(order)}"
    if scores is not None and scores.mean and found.metric not in ("withdrawal", "random", None):
        for place, (lower, higher) in enumerate(pairwise(order)):
            if scores.mean[lower] > scores.mean[higher]:
                yield (
                    f"order[{place}]: layer {lower} ({scores.mean[lower]:.3g}) before layer {higher} "
                    f"({scores.mean[higher]:.3g}), but layers go by rising score"
                )


def _extra(model: BaseModel, where: str) -> Iterator[str]:
    for key in model.model_extra or ():
        yield f"{where}{_key(key)}"
    for key in type(model).model_fields:
        inner = getattr(model, key)
        if isinstance(inner, BaseModel):
            yield from _extra(inner, f"{where}{key}.")


def first_wrong(error: ValidationError) -> str:
    """The first field of a file that is wrong, by its path, and what is needed there."""
    one = error.errors(include_url=False)[0]
    at = _path(one["loc"])
    if one["type"] == "extra_forbidden":
        known = (field.alias or name for name, field in PlanFile.model_fields.items())
        return f"unknown field {at}; there are {', '.join(known)}"
    if one["type"] == "missing":
        return f"{at}: it is missing"
    return f"{at}: {_says(one)}, got {short(one['input'], 60)}"


def _path(places: Sequence[int | str]) -> str:
    path = ""
    for place in places:
        path += f"[{place}]" if isinstance(place, int) else f".{_key(place)}" if path else _key(place)
    return path


def _key(name: Any) -> str:
    return printable(short(name, 60))


_WORDS = {
    "int_type": "a whole number is needed",
    "int_from_float": "a whole number is needed",
    "float_type": "a number is needed",
    "finite_number": "a finite number is needed",
    "string_type": "text is needed",
    "bool_type": "true or false is needed",
    "list_type": "a list is needed",
    "tuple_type": "a list is needed",
    "dict_type": "an object is needed",
    "model_type": "an object is needed",
    "none_required": "nothing",
    "string_pattern_mismatch": "a digest in hexadecimal digits is needed",
}


def _says(one: ErrorDetails) -> str:
    """What was expected, in words."""
    context = one.get("ctx", {})
    bounds = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
    for sign, word in bounds.items():
        if sign in context:
            return f"{word} {context[sign]} is needed"
    if one["type"] == "too_long":
        return f"at most {context['max_length']} entries are taken"
    if one["type"] == "literal_error":
        return f"one of {context['expected'].replace(' or ', ', ')} is needed"
    return _WORDS.get(one["type"], one["msg"].lower())
