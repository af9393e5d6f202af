"""Result files of every kind are recognised, and what is broken in one is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from saccade.report.results import read, render
from saccade.report.results.group import by_model
from saccade.report.results.model import ModelId, Result


def places(data, way=()):
    """Ways to every value within plain data."""
    found = [way] if way else []
    inner = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in inner:
        found += places(value, (*way, key))
    return found


def test_every_kind_is_told_apart(result_files):
    kinds = {name: read(path).kind for name, path in result_files.items()}
    assert kinds == {
        "eval": "evaluation",
        "family": "methods at matched FLOPs",
        "gate": "gate",
        "bench": "bench",
        "cost": "cost",
        "plan": "plan",
        "study": "study budget",
    }


FOR_TABLES = (
    "checkpoints.json",
    "generic.json",
    "predicted_times.json",
    "whole_bill.json",
    "opening_cpu.json",
    "serve_load.json",
    "vllm_exactness.json",
    "vllm_ttft.json",
    "vllm_load.json",
    "scaling.json",
    "start_times.json",
)
"""Results that compare no plans on questions; the documentation's tables alone read them."""


@pytest.mark.long(instead="the other tests of this file")
def test_the_repository_s_own_results_are_read(root):
    for path in sorted((root / "benchmarks" / "results").glob("*.json")):
        if path.name in FOR_TABLES:
            continue
        found = read(path)
        assert found.comparisons or found.timed or found.told, path.name
        assert found.provenance["command"] and found.provenance["versions"], path.name


def test_numbers_are_those_of_the_file(result_files):
    data = json.loads(Path(result_files["eval"]).read_text("utf-8"))
    (found,) = read(result_files["eval"]).comparisons.values()
    for entry, told in zip(found.entries, data["plans"], strict=True):
        assert entry.mean["accuracy"] == told["mean"]["accuracy"]
        assert entry.mean["difference_low"] == told["mean"]["difference_low"]
        assert entry.cost["flops_ratio"] == told["cost"]["flops_ratio"]
        assert set(entry.tasks) == set(told["tasks"])
    (bench,) = {run.plan: run for run in read(result_files["bench"]).timed}.values()
    assert (bench.prefill["time_ratio"], bench.decode["low"]) == (0.8, 0.9)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not JSON"),
        ("[]", "is not a result file"),
        ("3", "is not a result file"),
        ('{"predictions": []}', "is not a result file"),
        ('{"dense": 3}', "dense: an object is needed, got 3"),
        ('{"dense": {"name": "d"}}', "dense.mean: it is missing"),
        ('{"schema": 99, "methods": []}', "schema 99"),
        ('{"kind": "bench", "runs": [{"name": "a"}]}', r"runs\[0\].plan: it is missing"),
        (
            '{"study": "budget", "dense": {"name": "d", "mean": {"accuracy": 1, "n": 1}}}',
            "not a whole result",
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, words):
    path = tmp_path / "bad.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=words) as raised:
        read(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize(
    ("mean", "more", "words"),
    [
        ({"accuracy": 0.5}, {}, "dense.mean: a number 'n' is needed"),
        ({"n": 4}, {}, "dense.mean: a number 'accuracy' is needed"),
        ({"accuracy": 0.5, "n": True}, {}, "dense.mean.n: a number is needed, got True"),
        ({"accuracy": 0.5, "n": float("nan")}, {}, "dense.mean: a number 'n' is needed"),
        ({"accuracy": "x", "n": 1}, {}, "dense.mean.accuracy: a number is needed, got x"),
        ({"accuracy": 1, "n": 1}, {"calibration": {"vig": {"mean": [1, "x"]}}}, r"vig.mean\[1\]: a number"),
        ({"accuracy": 1, "n": 1}, {"model": {"layers": 10**9}}, "model.layers: at most 1000 is needed"),
        ({"accuracy": 1, "n": 1}, {"plans": [{"name": "p", "mean": 3}]}, r"plans\[0\].mean: an object"),
    ],
)
def test_what_is_wrong_in_an_evaluation_is_named(tmp_path, mean, more, words):
    path = tmp_path / "bad.json"
    path.write_text(json.dumps({"dense": {"name": "d", "mean": mean}, **more}), encoding="utf-8")
    with pytest.raises(ValueError, match=words):
        read(path)


def test_benches_of_several_models_are_refused(result_files, tmp_path):
    run = json.loads(Path(result_files["bench"]).read_text("utf-8"))["plans"][0]
    path = tmp_path / "two.json"
    path.write_text(json.dumps({"kind": "bench", "runs": [run, run | {"name": "other"}]}), encoding="utf-8")
    with pytest.raises(ValueError, match="several models: other, toy"):
        read(path)


def test_null_and_numbers_that_are_not_finite_are_not_there(tmp_path):
    mean = {"accuracy": None, "n": 4, "low": float("nan"), "high": None}
    data = {"dense": {"name": "d", "spec": None, "mean": mean, "cost": None}, "plans": None, "model": None}
    path = tmp_path / "odd.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    ((_, found),) = read(path).comparisons.items()
    assert found.dense.mean["accuracy"] is found.dense.mean["low"] is found.dense.cost["kv_ratio"] is None
    assert found.entries == () and read(path).model.name == "unnamed model"


@pytest.mark.parametrize("name", ["stratified", "seeds"])
def test_a_study_of_draws_without_its_plans_is_named(root, tmp_path, name):
    data = json.loads((root / "benchmarks" / "results" / f"study_{name}.json").read_text("utf-8"))
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(data | {"plans": []}), encoding="utf-8")
    with pytest.raises(ValueError, match=f"not a whole result of study {name}: .*no plan of") as raised:
        read(path)
    assert str(path) in str(raised.value)


@st.composite
def damaged(draw, files):
    """A result file of one kind, with one value gone or another in its place."""
    name = draw(st.sampled_from(sorted(files)))
    data = json.loads(Path(files[name]).read_text("utf-8"))
    way = draw(st.sampled_from(places(data)))
    place = data
    for key in way[:-1]:
        place = place[key]
    if draw(st.booleans()) and isinstance(place, dict):
        del place[way[-1]]
    else:
        place[way[-1]] = draw(st.sampled_from([None, "x", -1, 0, 1e300, [], {}, True, ["x"], {"a": 1}]))
    return data


def shown(path: Path, data: Any, whole: bool) -> None:
    """Reads damaged data, and makes the page if that is asked for: it works, or names the file."""
    path.write_text(json.dumps(data), encoding="utf-8")
    try:
        found = read(path)
    except ValueError as error:
        assert str(path) in str(error)
    else:
        assert not whole or render([found]).startswith("<!doctype html>")


LOOSE = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}


@settings(max_examples=100, **LOOSE)
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused_by_name(result_files, tmp_path, data):
    files = {name: path for name, path in result_files.items() if name != "study"}
    shown(tmp_path / "damaged.json", data.draw(damaged(files)), whole=False)


@settings(max_examples=8, **LOOSE)
@given(data=st.data())
def test_a_damaged_file_that_is_read_is_shown(result_files, tmp_path, data):
    files = {name: result_files[name] for name in ("eval", "bench", "cost", "plan")}
    shown(tmp_path / "damaged.json", data.draw(damaged(files)), whole=True)


def result(path, name, weights="", layers=None):
    return Result(path, "evaluation", ModelId(name, weights, layers), {})


def grouped(*results):
    return [(g.name, g.weights, [r.path for r in g.results], g.assumed) for g in by_model(results)]


def test_files_of_one_model_stand_together():
    found = grouped(result("a", "m", "11"), result("b", "n", "22"), result("c", "m", "11"), result("d", "m"))
    assert found == [("m", "11", ["a", "c", "d"], ["d"]), ("n", "22", ["b"], [])]


def test_models_of_one_name_are_told_apart_by_their_weights():
    found = grouped(result("a", "m", "11"), result("b", "m", "22"), result("c", "m"))
    assert [(w, paths) for _, w, paths, _ in found] == [("11", ["a"]), ("22", ["b"]), ("", ["c"])]


def test_a_file_without_weights_joins_no_model_of_another_depth():
    assert len(grouped(result("a", "m", "11", 12), result("b", "m", "", 32))) == 2
    assert len(grouped(result("a", "m", "", 12), result("b", "m", "", 32), result("c", "m", "", 12))) == 2


def test_a_plan_is_named_by_the_evaluation_of_its_weights(result_files):
    plan, evaluation = read(result_files["plan"]), read(result_files["eval"])
    assert plan.model.name == "llava" and plan.model.weights == evaluation.model.weights
    ((name, _, paths, assumed),) = grouped(plan, evaluation)
    assert name == evaluation.model.name and len(paths) == 2 and not assumed
