"""The fields of a plan file: a wrong one is named by its path, and what a newer version adds is kept."""

from __future__ import annotations

import copy
import json
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from saccade.calibration.layer_scores import Scores
from saccade.calibration.probes import PROBES
from saccade.measure.provenance import record
from saccade.plans.plan import Plan
from saccade.plans.schema import Metric, unknown_fields

NAN = float("nan")

ORIGIN = record(dtype="float32")
SCORES = Scores(
    metric="vig",
    num_layers=4,
    values_SL=((0.4, 0.1, 0.3, 0.2), (0.5, 0.2, 0.1, 0.2)),
    samples=("a", "b"),
    tasks=("count",),
    direction="perturbed-full",
    draw="global",
    seed=3,
    provenance={
        "data_hash": "ab" * 32,
        "weights_hash": "0123456789abcdef",
        **{key: ORIGIN[key] for key in ("date", "versions", "device", "dtype")},
        "source": {"commit": "0123abcd", "dirty": False},
    },
    cost={"flops_ratio": 0.5, "seconds_ratio": 0.4, "largest_difference": 0.0, "sample": "b"},
)
SIZES = {"layers": 4, "hidden": 8, "heads": 2, "kv_heads": 2, "head_dim": 4, "ffn": 16, "vocab": 32}
GOOD: dict[str, Any] = json.loads(
    json.dumps(
        {
            "schema": 1,
            "methods": [{"name": "vskip", "layers": [1, 3]}, {"name": "fastv", "layer": 2, "keep": 0.5}],
            "model": {
                "model_type": "llava",
                "text_type": "llama",
                "text": SIZES,
                "vision": {"image_size": [336, 336], "patch_size": 14},
            },
            "calibration": {"asked": {"budget": 2}, **SCORES.record()},
        }
    )
)


def changed(path: str, value: Any) -> dict[str, Any]:
    """A copy of the good file with one field replaced; the path is dotted, list items by number."""
    data = copy.deepcopy(GOOD)
    at: Any = data
    *way, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    for key in way:
        at = at[key]
    at[last] = value
    return data


def test_a_calibrated_plan_is_read_and_written_as_it_is():
    assert Plan.from_dict(GOOD).to_dict() == GOOD | {
        "methods": [{"name": "vskip", "layers": (1, 3)}, {"name": "fastv", "layer": 2, "keep": 0.5}]
    }
    assert unknown_fields(GOOD) == []


def test_a_plan_as_python_holds_it_is_read_too():
    facts = SCORES.record() | {"source": ORIGIN["source"]}
    plan = Plan(Plan.of("vskip(layers=1,3)").methods, GOOD["model"], facts)
    assert Plan.from_dict(plan.to_dict()).calibration == json.loads(json.dumps(facts))


def test_the_metrics_of_a_file_are_the_scores_there_are():
    # Rows are fitted to attention, which scores no layer.
    assert set(get_args(Metric)) == {*PROBES, "attention"}


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("model.text", "llama", r"model\.text: an object is needed, got llama"),
        ("model.text", None, r"model\.text: an object is needed, got None"),
        ("model.text", {}, r"model\.text\.layers: it is missing"),
        ("model.text.layers", "4", r"model\.text\.layers: a whole number"),
        ("model.text.layers", 0, r"model\.text\.layers: at least 1"),
        ("model.text.hidden", 8.5, r"model\.text\.hidden: a whole number"),
        ("model.model_type", 3, r"model\.model_type: text is needed, got 3"),
        ("model.vision", [1], r"model\.vision: an object"),
        ("model", None, "model: an object is needed, got null"),
        ("calibration", None, "calibration: an object is needed, got null"),
        ("calibration.metric", "vgi", r"calibration\.metric: one of 'vig', 'lc'"),
        ("calibration.metric", NAN, r"calibration\.metric: one of"),
        ("calibration.direction", "back", r"calibration\.direction: one of"),
        ("calibration.answer_tokens", 0, r"calibration\.answer_tokens: at least 1"),
        ("calibration.seed", -1, r"calibration\.seed: at least 0"),
        ("calibration.seed", True, r"calibration\.seed: a whole number"),
        ("calibration.samples", ["a", 2], r"calibration\.samples\[1\]: text"),
        ("calibration.tasks", "count", r"calibration\.tasks: a list is needed, got count"),
        ("calibration.draw", "some", r"calibration\.draw: one of"),
        ("calibration.weights_hash", "not hex", r"calibration\.weights_hash: a digest"),
        ("calibration.source.commit", 3, r"calibration\.source\.commit: text"),
        ("calibration.source", "0123", r"calibration\.source: an object"),
        ("calibration.versions", {"torch": 2}, r"calibration\.versions\.torch: text"),
        ("calibration.asked.flops", 1.5, r"calibration\.asked\.flops: at most 1"),
        ("calibration.cost.flops_ratio", NAN, r"calibration\.cost\.flops_ratio: a finite number"),
        ("calibration.scores", [0.1], r"calibration\.scores: an object"),
        (
            "calibration.scores.mean.2",
            NAN,
            r"calibration\.scores\.mean\[2\]: a finite number is needed, got nan",
        ),
        ("calibration.scores.mean.2", "0.1", r"calibration\.scores\.mean\[2\]: a number is needed, got 0\.1"),
        (
            "calibration.scores.mean",
            [0.1, 0.2],
            r"calibration\.scores\.mean: a score for each of the model's 4",
        ),
        ("calibration.scores.sd", [0.1], r"calibration\.scores\.sd: as many as"),
        ("calibration.scores.sd.0", -0.1, r"calibration\.scores\.sd\[0\]: at least 0"),
        ("calibration.scores.samples.1", [0.1], r"calibration\.scores\.samples\[1\]: 4 scores"),
        ("calibration.scores.n", 5, r"calibration\.scores\.n: says 5"),
        ("calibration.order", [1, 3, 2, 2], r"calibration\.order\[3\]: layer 2 stands there twice"),
        ("calibration.order", [1, 3, 2, 9], r"calibration\.order\[3\]: layer 9, but the model has 4"),
        ("calibration.order", [1, 3, 2], r"calibration\.order: every one of the 4 layers"),
        ("calibration.order", [1, 3, 2, 0.5], r"calibration\.order\[3\]: a whole number"),
        ("calibration.order", [0, 1, 2, 3], r"calibration\.order\[0\]: layer 0 \(0\.45\) before layer 1"),
        ("calibration.order", "1-3", r"calibration\.order: a list"),
        ("methods.0.layers", [1, 4.5], r"methods\[0\]\.layers: a whole number is needed"),
        ("methods.0.layers", "1-3", r"methods\[0\]\.layers: a list is needed.*got 1-3"),
        (
            "methods.0.layer",
            3,
            r"methods\[0\]\.layer: vskip does not take it; it takes flops, budget, layers",
        ),
        ("methods.1.keep", "half", r"methods\[1\]\.keep: a whole number or a number is needed, got half"),
        ("methods.1.keep", 2.5, r"methods\[1\]: fastv: keep"),
        ("methods.1.name", "fastvv", r"methods\[1\]\.name: no method 'fastvv'"),
        ("methods.1", [], r"methods\[1\]: an object with the name of a method"),
        ("methods", "vskip", r"methods: a list is needed, got vskip"),
        ("calibration.date", "\ud800", r"calibration\.date: holds half of a surrogate pair"),
        ("calibration.tasks.0", "a\udfff", r"calibration\.tasks\[0\]: holds half"),
        ("modle", {}, "unknown field modle; there are schema, methods, model, calibration"),
    ],
)
def test_a_wrong_field_is_named_by_its_path(path, value, says):
    with pytest.raises(ValueError, match=says) as caught:
        Plan.from_dict(changed(path, value), "plan.json")
    assert str(caught.value).startswith("plan.json: ") and "\n" not in str(caught.value)


def test_withdrawal_orders_only_what_may_go_and_random_has_no_scores():
    withdrawal = changed("calibration.metric", "withdrawal")
    withdrawal["calibration"]["order"] = [3, 2]
    assert Plan.from_dict(withdrawal).calibration["order"] == [3, 2]
    drawn = Scores("random", 4, (), ("a",), ("count",), seed=1)
    data = GOOD | {"calibration": drawn.record()}
    assert Plan.from_dict(data).calibration["order"] == list(drawn.order)


def test_fields_of_a_newer_version_are_kept_and_named():
    data = changed("calibration.share", "view")
    data["model"]["text"]["experts"] = 8
    data["calibration"]["scores"]["median"] = [1]
    assert Plan.from_dict(data).to_dict()["calibration"]["share"] == "view"
    assert sorted(unknown_fields(data)) == [
        "calibration.scores.median", "calibration.share", "model.text.experts",
    ]  # fmt: skip


leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
anything = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


def places(data: Any, way: tuple = ()) -> list[tuple]:
    """Ways to all that the data hold."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [way, *(place for key, value in items for place in places(value, (*way, key)))]


@pytest.mark.e2e
@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(places(GOOD)[1:]), anything, st.booleans())
def test_whatever_stands_in_a_field_is_read_or_a_value_error(place, value, drop):
    data = copy.deepcopy(GOOD)
    at: Any = data
    for key in place[:-1]:
        at = at[key]
    if drop:
        del at[place[-1]]
    else:
        at[place[-1]] = value
    try:
        plan = Plan.from_dict(data)
    except ValueError as error:
        assert len(str(error)) < 500 and "\n" not in str(error)
        return
    assert Plan.from_dict(plan.to_dict()) == plan


def test_a_deeply_nested_file_is_a_value_error():
    data: Any = []
    for _ in range(100_000):
        data = [data]
    with pytest.raises(ValueError, match="nested too deeply"):
        Plan.from_dict(changed("calibration.note", data))
