"""The plan file: it comes back as it went, is written whole or not at all, and refuses nonsense."""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from saccade.core.layout import Layout
from saccade.methods.shortv import ShortV
from saccade.methods.vskip import VSkip
from saccade.methods.vtw import VTW
from saccade.plans.plan import PLAIN, SCHEMA, Plan
from saccade.system import files

FULL = Plan(
    (VSkip(layers=(1, 2, 5), reading="mask"), VTW(layer=7)),
    {"model_type": "llava", "text": {"layers": 8}},
    {"scores": {"mean": [0.1, 0.25, 0.2, 0.5, 0.6, 0.7, 0.8, 0.9]}, "samples": ["a", "b"], "seed": 3},
)
GOOD = {"schema": SCHEMA, "methods": [{"name": "vskip", "layers": [1, 2]}]}


def test_save_and_load(tmp_path):
    path = FULL.save(tmp_path / "deep" / "plan.json")
    assert Plan.load(path) == FULL == Plan.of(str(path)) == Plan.of(path)
    assert json.loads(path.read_text())["schema"] == PLAIN
    assert os.listdir(path.parent) == ["plan.json"]


def test_floats_survive_the_file(tmp_path):
    plan = Plan((VSkip(flops=0.1 + 0.2),), calibration={"x": [1e-17, 1 / 3]})
    assert Plan.load(plan.save(tmp_path / "p.json")) == plan


@pytest.mark.parametrize(
    ("what", "methods"),
    [
        ("vskip(layers=1)", (VSkip(layers=(1,)),)),
        (VSkip(layers=(1,)), (VSkip(layers=(1,)),)),
        ([VSkip(layers=(1,)), VTW(layer=2)], (VSkip(layers=(1,)), VTW(layer=2))),
        (Plan((VTW(layer=2),)), (VTW(layer=2),)),
        ("dense", ()),
        ((), ()),
    ],
)
def test_everything_taken_as_a_plan(what, methods):
    assert Plan.of(what).methods == methods


@pytest.mark.parametrize(
    "what", [None, 3, 1.5, {"schema": 1}, [1], object(), b"vskip", "missing.json", "no/such/plan"]
)
def test_everything_else_is_refused(what):
    with pytest.raises(ValueError):
        Plan.of(what)


@pytest.mark.parametrize(
    "change",
    [
        {"schema": SCHEMA + 1},
        {"schema": 0},
        {"schema": "1"},
        {"schema": None},
        {"schema": True},
        {"schema": 1.0},
        {"methods": {}},
        {"methods": "vskip"},
        {"methods": [None]},
        {"methods": ["vskip"]},
        {"methods": [{}]},
        {"methods": [{"name": "nosuch"}]},
        {"methods": [{"name": ["vskip"]}]},
        {"methods": [{"name": {}}]},
        {"methods": [{"name": "vskip", "layer": 3}]},
        {"methods": [{"name": "vskip", "layers": "1-3"}]},
        {"methods": [{"name": "vskip", "layers": 3}]},
        {"methods": [{"name": "vskip", "layers": [1.5]}]},
        {"methods": [{"name": "vskip", "layers": [[1]]}]},
        {"methods": [{"name": "vskip", "layers": {"1": 2}}]},
        {"methods": [{"name": "vskip", "layers": [True, 3]}]},
        {"methods": [{"name": "vskip", "budget": "3"}]},
        {"methods": [{"name": "vskip", "budget": 2.5}]},
        {"methods": [{"name": "vskip", "budget": [3]}]},
        {"methods": [{"name": "vskip", "flops": "0.5"}]},
        {"methods": [{"name": "vskip", "flops": {}}]},
        {"methods": [{"name": "vskip", "reading": 3}]},
        {"methods": [{"name": "vskip", "reading": []}]},
        {"methods": [{"name": "shortv", "preset": 3}]},
        {"methods": [{"name": "shortv", "preset": ["x"]}]},
        {"methods": [{"name": "shortv", "preset": {}}]},
        {"methods": [{"name": "vtw", "layer": "3"}]},
        {"methods": [{"name": "vtw", "layer": 1.5}]},
        {"methods": [{"name": "vtw", "layer": [1]}]},
        {"methods": [{"name": "vtw", "preset": []}]},
        {"model": []},
        {"model": "llava"},
        {"calibration": 3},
        {"extra": 1},
    ],
)
def test_a_broken_file_is_a_value_error(change, tmp_path):
    (tmp_path / "p.json").write_text(json.dumps(GOOD | change))
    with pytest.raises(ValueError):
        Plan.load(tmp_path / "p.json")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "3", '"x"', "[1,2]", "\x00", '{"schema": 1}', '{"methods": []}', "[" * 50_000],
)
def test_a_file_that_is_no_plan(text, tmp_path):
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(ValueError):
        Plan.load(tmp_path / "p.json")


def test_a_newer_file_is_named_as_such(tmp_path):
    with pytest.raises(ValueError, match=f"schema {SCHEMA + 1}"):
        Plan.from_dict(GOOD | {"schema": SCHEMA + 1})


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 40)
    | st.floats()
    | st.sampled_from(["vskip", "vtw", "mask", "1-3", ""]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "layers", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)
entries = st.fixed_dictionaries(
    {"name": st.sampled_from(["vskip", "ffn_skip", "shortv", "vtw"])},
    optional={k: anything for k in ("layers", "layer", "budget", "flops", "preset", "reading")},
)


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.one_of(
        anything,
        st.fixed_dictionaries(
            {"schema": st.just(SCHEMA) | anything, "methods": st.lists(entries | anything, max_size=2)}
        ),
    )
)
def test_any_json(data):
    """Whatever the file holds: a plan that can be routed, written and read again, or a ValueError."""
    try:
        plan = Plan.from_dict(data)
    except ValueError:
        return
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
    assert Plan.of(plan.spec).methods == plan.methods
    try:
        plan.resolve(4, {}).route(Layout.single(2, 3), 4)
    except ValueError:
        return


@pytest.mark.parametrize("broken", ["dumps", "replace"])
def test_a_failed_write_leaves_the_old_file_and_no_other(broken, tmp_path, monkeypatch):
    path = FULL.save(tmp_path / "plan.json")
    before = path.read_bytes()

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(files.os, "replace", fail) if broken == "replace" else monkeypatch.setattr(
        files.json, "dumps", fail
    )
    with pytest.raises(OSError):
        Plan().save(path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["plan.json"]


def test_what_cannot_be_written_leaves_the_old_file(tmp_path):
    path = FULL.save(tmp_path / "plan.json")
    before = path.read_bytes()
    with pytest.raises(TypeError):
        Plan(calibration={"scores": object()}).save(path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["plan.json"]


def test_diff_names_what_differs():
    other = Plan(
        (VSkip(layers=(1, 2, 6), reading="mask"), VTW(layer=7)), FULL.model, FULL.calibration | {"seed": 4}
    )
    assert FULL.diff(FULL) == {}
    assert FULL.diff(other) == {"methods[0].layers": ((1, 2, 5), (1, 2, 6)), "calibration.seed": (3, 4)}
    assert set(Plan(model={"a": {"b": 1}}).diff(Plan(model={"a": {"b": 2}}))) == {"model.a.b"}


def test_resolve_needs_orders_and_fits_the_depth():
    plan = Plan.of("vskip(budget=2)+shortv(budget=1)")
    assert not plan.is_resolved
    solved = plan.resolve(4, {"vig": [3, 1, 0, 2], "lc": [2, 0, 1, 3]})
    assert solved.methods == (VSkip(layers=(1, 3)), ShortV(layers=(2,))) and solved.is_resolved
    for orders in (None, {"vig": [0, 1, 2, 3]}):
        with pytest.raises(ValueError, match="calibrat"):
            plan.resolve(4, orders)
    with pytest.raises(ValueError, match="layer 4"):
        Plan.of("vskip(layers=4)").resolve(4)
    with pytest.raises(ValueError, match="layers yet"):
        plan.route(Layout.single(2, 3), 4)
