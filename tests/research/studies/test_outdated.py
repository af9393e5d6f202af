"""Rows that code made which has changed since are named on every page that shows them."""

from __future__ import annotations

import json

import pytest

from saccade.methods import METHODS
from saccade.research.studies import outdated
from support.programs import ROOT


def result(*specs, code=None):
    plans = [{"spec": spec, "mean": {"accuracy": 1.0}} for spec in specs]
    return {"plans": plans, "provenance": {} if code is None else {"code": code}}


@pytest.fixture
def raised(monkeypatch):
    monkeypatch.setattr(METHODS["uniform"], "version", 3)
    monkeypatch.setattr(METHODS["vskip"], "version", 1)


def test_a_method_that_has_changed_since_is_named_and_others_are_not(raised):
    found = result("uniform(keep=0.5)+vskip(layers=1)", "vskip(layers=2)")
    assert outdated.changed_since(found) == [METHODS["uniform"].title]
    assert METHODS["uniform"].title in outdated.told(found) and "V-Skip" not in outdated.told(found)


def test_a_result_of_todays_code_says_so_itself(raised):
    specs = ("uniform(keep=0.5)", "vskip(layers=2)")
    code = outdated.code_of_plans(specs)
    assert code == {"uniform": 3} and outdated.told(result(*specs, code=code)) == ""
    assert outdated.changed_since(result(*specs, code={"uniform": 2}))


def test_rows_that_are_not_there_say_nothing(raised):
    absent = {"plans": [{"spec": "uniform()", "mean": None}, {"spec": "", "mean": {}}], "provenance": {}}
    assert outdated.told(absent) == ""


def test_the_results_that_are_shown_can_be_asked():
    files = sorted((ROOT / "benchmarks" / "results").glob("study_*.json"))
    assert len(files) > 5
    for file in files:
        found = json.loads(file.read_text())
        assert outdated.told(found) in file.with_suffix(".md").read_text(), file.name
