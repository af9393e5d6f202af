"""Whatever stands in a spec, a plan file or a configuration: it is read, or one line says why not."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from saccade.cli import main
from saccade.core.text import printable
from saccade.methods import METHODS
from saccade.plans.plan import Plan
from saccade.skip_vision import SkipVisionConfig
from saccade.training.config import read_config

KEYS = sorted(
    {name for cls in METHODS.values() for name in cls.__dataclass_fields__} | {"x", "", "layers layers"}
)
BAD = [
    "9" * 400,
    "1e400",
    "-1",
    "nan",
    "inf",
    "0-9999",
    "9-1",
    "none",
    "true",
    "1,,2",
    "a" * 300,
    "\x00",
    "\x1b[2J",
]

numbers = st.integers(-3, 40) | st.integers() | st.floats()
words = st.sampled_from([*BAD, "mask", "bypass", "0.5", "3", "1/2", "llava-1.5-7b"]) | st.text(max_size=12)
values = numbers.map(str) | words
call = st.tuples(
    st.sampled_from(sorted(METHODS)) | st.text(max_size=8),
    st.lists(st.tuples(st.sampled_from(KEYS) | st.text(max_size=5), values), max_size=4),
).map(lambda parts: f"{parts[0]}({','.join(f'{k}={v}' for k, v in parts[1])})")
specs = st.lists(call | st.text(max_size=20), min_size=1, max_size=3).map("+".join) | st.text(max_size=60)

leaves = st.none() | st.booleans() | numbers | words
trees = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
bounded = settings(max_examples=120, suppress_health_check=list(HealthCheck))


def short_and_single(error: ValueError) -> None:
    """An error a person can read."""
    assert len(str(error)) < 4000


@bounded
@given(specs)
def test_a_spec_is_a_plan_or_a_value_error(text):
    try:
        plan = Plan.of(text)
    except ValueError as error:
        short_and_single(error)
        return
    assert Plan.of(plan.spec).methods == plan.methods


@bounded
@given(st.text(min_size=1, max_size=3), st.integers(1000, 3000))
def test_a_long_spec_is_not_echoed_whole(piece, times):
    for text in (
        piece * times,
        f"vskip(layers={piece * times})",
        f"vskip({piece * times}=1)",
        f"{piece * times}()",
    ):
        try:
            Plan.of(text)
        except ValueError as error:
            assert len(str(error)) < 1200


CONFIG: dict[str, Any] = {
    "model": {"name": "glance", "dtype": "float32", "skip_vision": {"layout": "llava", "retained": 4}},
    "data": [
        {"kind": "glance", "images": 8, "turns": 2, "weight": 1.0},
        {"kind": "conversations", "file": "a.json", "weight": 0.5},
    ],
    "optimisation": {
        "batch": 2, "accumulation": 1, "steps": 3, "lr": 1e-4, "part_lr": {"projector": 1e-3}, "warmup": 0.1,
        "weight_decay": 0.0, "betas": [0.9, 0.99], "max_grad_norm": 1.0, "max_length": 64, "seed": 1,
        "precision": "fp32", "schedule": "cosine", "checkpointing": False,
    },
    "train_modules": ["projector", "decoder"],
    "lora": {"rank": 4, "alpha": 8.0, "dropout": 0.1, "targets": ["q_proj"]},
    "workers": 0, "threads": 1, "save_every": 10, "keep": 1, "logging_every": 1, "plan": "vskip(layers=1)",
}  # fmt: skip


def places(data: Any, way: tuple = ()) -> list[tuple]:
    """Ways to all that the data hold."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [way, *(place for key, value in items for place in places(value, (*way, key)))]


def put(data: Any, place: tuple, value: Any) -> Any:
    """A copy with one part replaced."""
    if not place:
        return value
    copied: Any = list(data) if isinstance(data, list) else dict(data)
    copied[place[0]] = put(data[place[0]], place[1:], value)
    return copied


HUGE = st.sampled_from([10**6, 10**9, 10**30, -(10**30), 1e300, float("inf"), float("nan"), "9" * 30])


@bounded
@given(st.sampled_from(places(CONFIG)[1:]), trees | HUGE)
def test_a_configuration_is_read_or_a_value_error(tmp_path_factory, place, value):
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_text(yaml.safe_dump(put(CONFIG, place, value), allow_unicode=False), encoding="utf-8")
    try:
        read = read_config(path)
        SkipVisionConfig.from_dict(dict(read.model.skip_vision or {}))
    except ValueError as error:
        short_and_single(error)


@bounded
@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda t: t.encode("utf-8", "surrogatepass")))
def test_any_bytes_as_a_configuration_or_a_plan_file(tmp_path_factory, data):
    for name, read in (("fuzz.yaml", read_config), ("fuzz.json", Plan.load)):
        path = tmp_path_factory.getbasetemp() / name
        path.write_bytes(data)
        try:
            read(path)
        except ValueError as error:
            short_and_single(error)


@pytest.mark.e2e
@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(st.one_of(specs, trees, st.sampled_from(places(CONFIG)[1:])), trees | HUGE)
def test_the_command_line_says_it_in_one_line(capsys, tmp_path_factory, what, value):
    base = tmp_path_factory.getbasetemp()
    if isinstance(what, str):
        code = main(["plan", "validate", "--", what])
    elif isinstance(what, tuple):
        (base / "fuzz.yaml").write_text(yaml.safe_dump(put(CONFIG, what, value)), encoding="utf-8")
        # Without a model or data there is nothing to train: whatever is read stops at the first file.
        code = main(["train", "run", str(base / "fuzz.yaml"), "--run", "/dev/null/run"])
    else:
        (base / "fuzz.json").write_text(json.dumps({"schema": 1, "methods": [what], "model": value}), "utf-8")
        code = main(["plan", "validate", str(base / "fuzz.json")])
    shown = capsys.readouterr()
    assert code in (0, 2)
    if code == 2:
        assert shown.out == "" and shown.err.count("\n") == 1 and len(shown.err) < 1200
        assert shown.err.startswith("saccade: error: ") and printable(shown.err, keep="\n") == shown.err
