"""``saccade methods`` shows the registry, all of it."""

from __future__ import annotations

from dataclasses import fields

from saccade.families import FAMILIES
from saccade.methods import METHODS


def test_every_registered_method_is_listed_with_its_parameters(command):
    data = command("methods", "--json", "-").json["methods"]
    assert [entry["name"] for entry in data] == sorted(METHODS)
    for entry in data:
        cls = METHODS[entry["name"]]
        assert (entry["title"], entry["paper"], entry["saves"]) == (cls.title, cls.paper, list(cls.saves))
        assert {p["name"]: p["default"] for p in entry["parameters"]} == {
            f.name: f.default for f in fields(cls)
        }
        assert entry["presets"] == sorted(getattr(cls, "presets", {}))
        needs, every = cls().needs, FAMILIES.values()
        assert set(entry["families"]) == {one.name for one in every if needs in (None, *one.tower_can)}


def test_a_method_that_needs_something_of_the_tower_names_the_families_that_have_it(command):
    entries = {e["name"]: e for e in command("methods", "--json", "-").json["methods"]}
    assert "LLaVA-1.5" in entries["tome"]["families"] and "Qwen2.5-VL" not in entries["tome"]["families"]
    assert "Qwen2.5-VL" in entries["pixelprune"]["families"]
    assert set(entries["fastv"]["families"]) > set(entries["tome"]["families"])


def test_parameters_say_what_they_are_if_they_are_not_given(command):
    entries = {
        e["name"]: {p["name"]: p for p in e["parameters"]}
        for e in command("methods", "--json", "-").json["methods"]
    }
    usual = {name: entries[name]["keep"]["usual"] for name in ("fastv", "uniform", "prumerge")}
    assert usual == {"fastv": "0.5", "uniform": "0.25", "prumerge": "the picture decides"}
    assert entries["pyramiddrop"]["layers"]["usual"].startswith("8/16/24")
    assert entries["pyramiddrop"]["position_policy"]["usual"] == "compact"
    assert entries["fastv"]["position_policy"]["usual"] == "keep"
    assert entries["tome"]["r"]["default"] == 16 and entries["tome"]["r"]["usual"] == ""
    assert entries["visionzip"]["dominant"]["type"] == "fraction or number of rows"


def test_types_are_words_a_user_writes(command):
    data = {e["name"]: e for e in command("methods", "--json", "-").json["methods"]}
    types = {p["name"]: p["type"] for p in data["vskip"]["parameters"]}
    assert types == {
        "budget": "whole number",
        "flops": "number",
        "layers": "layers",
        "preset": "name",
        "reading": "bypass or mask",
    }


def test_the_table_names_papers_and_presets(command):
    done = command("methods")
    assert done.code == 0 and not done.err
    for name, cls in METHODS.items():
        assert name in done.out and (cls.paper or "-") in done.out
    assert "llava-next-13b" in done.out
