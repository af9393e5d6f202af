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
        assert set(entry["families"]) == {family.name for family in FAMILIES.values()}


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
        assert name in done.out and cls.paper in done.out
    assert "llava-next-13b" in done.out
