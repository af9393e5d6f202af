"""Rows that code made which has changed since are named on every page that shows them."""

from __future__ import annotations

import json

import pytest

from saccade.methods import METHODS
from saccade.research.studies import outdated
from saccade.research.studies.trained.anew import put_beside
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


def test_rows_made_anew_stand_beside_those_they_replace(raised):
    """They are not named as old, and say what they found beside a dense row of their own."""

    def entry(name, accuracy, gap, spec=""):
        mean = {"accuracy": accuracy, "low": accuracy - 0.1, "high": accuracy + 0.1, "difference": gap}
        mean |= {"difference_low": gap - 0.1, "difference_high": gap + 0.1}
        return {"name": name, "spec": spec, "mean": mean}

    def made(*plans):
        about = {"recipe": {"steps": 4}, "model": {"weights": "w"}, "data": {"questions": 9}}
        return about | {"plans": list(plans), "provenance": {}}

    old = [
        entry("dense", 0.9, 0.0),
        entry("Uniform", 0.5, -0.4, "uniform(keep=0.5)"),
        entry("other", 0.7, -0.2),
    ]
    whole, part = made(*old), made(entry("dense", 0.8, 0.0), entry("Uniform", 0.6, -0.2, "uniform(keep=0.5)"))
    assert "Rows with" in outdated.told(whole)
    found = put_beside(whole, part)
    assert found["plans"] == old and outdated.changed_since(found) == []
    assert outdated.told(found) == (
        "Made anew since the tables: Uniform 60.0 % (50.0 to 70.0), -20.0 (-30.0 to -10.0) points from the "
        "80.0 % of a dense row that was trained beside it, over 9 questions."
    )
    assert [one["name"] for one in put_beside(found, part)["anew"]] == ["Uniform"]
    assert put_beside(None, part) == part and put_beside(part, part) == part
    assert put_beside(whole | {"recipe": {"steps": 5}}, part) == part


def test_rows_that_are_not_there_say_nothing(raised):
    absent = {"plans": [{"spec": "uniform()", "mean": None}, {"spec": "", "mean": {}}], "provenance": {}}
    assert outdated.told(absent) == ""


def test_the_results_that_are_shown_can_be_asked():
    files = sorted((ROOT / "benchmarks" / "results").glob("study_*.json"))
    assert len(files) > 5
    for file in files:
        found = json.loads(file.read_text())
        assert outdated.told(found) in file.with_suffix(".md").read_text(), file.name
