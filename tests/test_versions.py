"""Answers of code that behaves otherwise by now are not served again, and nobody forgets to say so."""

from __future__ import annotations

import ast

import pytest

from saccade import identity, models
from saccade.engine import apply
from saccade.evaluation import compare, runner
from saccade.families import FAMILIES
from saccade.identity import code_of
from saccade.methods import METHODS
from saccade.plans.plan import Plan
from saccade.research.studies import Store, StudyBench, StudyQuestions
from support import versions
from support.toy import build_toy


@pytest.mark.e2e
def test_every_change_of_code_that_makes_answers_is_looked_at():
    left = versions.reminders(versions.noted(), versions.now())
    assert not left, "\n".join(left)


def test_every_method_and_family_has_a_version():
    names = {f"method {name}" for name in METHODS} | {f"family {family.name}" for family in FAMILIES.values()}
    assert names <= versions.parts().keys()
    assert all(type(number) is int and number >= 1 for number, _ in versions.parts().values())


def code(text: str) -> object:
    return versions.plain(ast.parse(text))


BEFORE = '''
"""A module."""
class A:
    """A class."""
    version = 1
    keep: float = 0.5
    """What is kept."""
    def f(self, x):
        """A function."""
        return x + 1
'''


@pytest.mark.parametrize(
    "other",
    [
        BEFORE.replace("A class.", "Another sentence."),
        BEFORE.replace("What is kept.", "How much is kept."),
        BEFORE.replace("return x + 1", "# why\n        return (x + 1)"),
        BEFORE.replace("version = 1", "version = 2"),
    ],
)
def test_words_and_numbers_of_versions_are_no_behaviour(other):
    assert other != BEFORE and code(other) == code(BEFORE)


@pytest.mark.parametrize(
    "pair", [("x + 1", "x + 2"), ("0.5", "0.25"), ("x + 1", "x - 1"), ("(self, x)", "(self, x=0)")]
)
def test_code_is_behaviour(pair):
    assert code(BEFORE.replace(*pair)) != code(BEFORE)


def test_a_part_reminds_until_it_is_written_down():
    then = {"fastv": {"version": 1, "digest": "a"}, "old": {"version": 1, "digest": "c"}}
    said = versions.reminders(
        then, {"fastv": {"version": 1, "digest": "b"}, "new": {"version": 1, "digest": "d"}}
    )
    assert "raise its version (now 1)" in said[0] and "make versions" in said[0]
    assert said[1].startswith("new: new") and said[2].startswith("old: gone")
    raised = versions.reminders(then, then | {"fastv": {"version": 2, "digest": "b"}})
    assert len(raised) == 1 and "version 2 is new" in raised[0]
    assert (
        "only raised"
        in versions.reminders({"a": {"version": 2, "digest": "a"}}, {"a": {"version": 1, "digest": "a"}})[0]
    )
    assert versions.reminders(then, then) == []


def test_a_method_answers_for_what_it_imports_and_the_engine_for_the_rest():
    told = {name: {path.name for path in files} for name, (_, files) in versions.parts().items()}
    assert {"prumerge_plus.py", "prumerge.py"} <= told["method prumerge_plus"]
    assert "cluster.py" in told["method dart"] | told["method sparsevlm"] | told["method prumerge"]
    assert {"attention.py", "decide.py", "route.py", "base.py"} <= told["engine"]
    assert "support.py" not in told["engine"]


@pytest.fixture
def asked(monkeypatch):
    """Batches that are really asked, by plan."""
    calls, real = [], runner.generate
    monkeypatch.setattr(runner, "generate", lambda *a: calls.append(a[2] and a[2].spec) or real(*a))
    return calls


@pytest.fixture(scope="module")
def toy():
    return build_toy()


@pytest.fixture
def first(toy, monkeypatch):
    """Everything as if nothing had ever changed its behaviour."""
    for owner in (*METHODS.values(), type(toy.family)):
        monkeypatch.setattr(owner, "version", 1)
    for room, name in ((identity, "ENGINE"), (identity, "WRAPPED"), (models, "VERSION")):
        monkeypatch.setattr(room, name, 1)


PLANS = ("fastv(keep=0.5,layer=1)", "vskip(layers=1)")


def test_evaluations_ask_again_what_a_method_made_that_behaves_otherwise_now(
    toy, asked, first, tmp_path, monkeypatch
):
    samples = StudyQuestions.of_suite(("count",), 2, 2, 0).asked("count")
    path = tmp_path / "cells.jsonl"

    def ask() -> list:
        asked.clear()
        compare(toy.model, toy.processor, samples, PLANS, max_new_tokens=2, ledger=path)
        return list(asked)

    assert ask() == [None, None, *PLANS] and ask() == []
    monkeypatch.setattr(METHODS["fastv"], "version", 2)
    assert ask() == [PLANS[0]] and ask() == []
    monkeypatch.setattr(identity, "ENGINE", 2)
    assert ask() == list(PLANS) and ask() == []  # the stock model runs without the engine
    monkeypatch.setattr(type(toy.family), "version", 2)
    assert ask() == [None, None, *PLANS]
    for owner, name in ((METHODS["fastv"], "version"), (identity, "ENGINE"), (type(toy.family), "version")):
        monkeypatch.setattr(owner, name, 1)
    assert ask() == []  # those of the former versions are there still


def test_studies_look_for_another_cell(toy, first, tmp_path, monkeypatch):
    questions = StudyQuestions.of_suite(("count",), 2, 2, 0)

    def keys() -> list:
        bench = StudyBench(toy, questions, Store(tmp_path))
        return [bench.column("count", name).key for name in ("dense", "blind", *PLANS)]

    before = keys()
    assert all("code" not in key.to_dict() for key in before)  # as it was before there were versions
    monkeypatch.setattr(METHODS["fastv"], "version", 2)
    assert [key != was for key, was in zip(keys(), before, strict=True)] == [False, False, True, False]
    assert keys()[2].code == "fastv 2"
    monkeypatch.setattr(identity, "ENGINE", 3)
    assert [key.code for key in keys()] == ["", "", "engine 3, fastv 2", "engine 3"]
    monkeypatch.setattr(models, "VERSION", 2)
    assert keys()[0].code == "models 2"


def test_a_plan_that_belongs_to_the_model_counts_where_no_other_is_given(toy, first, monkeypatch):
    monkeypatch.setattr(METHODS["vskip"], "version", 4)
    assert code_of(toy) == "" and code_of(toy, Plan.of("vtw(layer=2)")) == ""
    with apply(toy.model, "vskip(layers=1)", resident=True):
        assert code_of(toy) == code_of(toy, Plan.of("vtw(layer=2)")) == "vskip 4"


def test_scores_of_layers_hang_on_the_method_that_is_tried(toy, tmp_path, monkeypatch):
    samples = StudyQuestions.of_suite(("count",), 2, 2, 0).calibration("count", 2)
    bench = StudyBench(toy, StudyQuestions.of_suite(("count",), 2, 2, 0), Store(tmp_path))
    told = []
    bench.note = told.append
    for number, expected in ((1, 1), (1, 1), (2, 2)):
        monkeypatch.setattr(METHODS["vskip"], "version", number)
        bench.scored("vig", samples)
        assert len(told) == expected
    assert len(list((tmp_path / "scores").iterdir())) == 2
