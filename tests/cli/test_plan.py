"""`saccade plan`: files are shown, compared and checked."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from calibration.vlm import LAYERS, question, save_model
from saccade import models
from saccade.calibration import calibrate
from saccade.cli import main
from saccade.methods.vskip import VSkip
from saccade.plans.plan import Plan


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(save_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def made(model) -> Plan:
    loaded = models.load(model)
    return calibrate(loaded.model, loaded.processor, [question(1)], budget=2, check=False)


@pytest.fixture
def file(made, tmp_path) -> str:
    return str(made.save(tmp_path / "plan.json"))


def test_show_prints_the_scores_and_where_they_come_from(file, made, capsys):
    assert main(["plan", "show", file]) == 0
    shown = capsys.readouterr().out
    assert f"plan: {made.spec}" in shown and f"model: llava, {LAYERS} layers, width 32" in shown
    assert f"{made.calibration['scores']['mean'][0]:.3g}" in shown and "transformers" in shown


def test_show_draws_scores_of_any_size(made, tmp_path, capsys):
    data = made.to_dict()
    scores = data["calibration"]["scores"]
    scores["mean"], scores["samples"] = [1e308] * LAYERS, [[1e308] * LAYERS]
    path = tmp_path / "large.json"
    path.write_text(json.dumps(data))
    assert main(["plan", "show", str(path)]) == 0
    assert "1e+308" in capsys.readouterr().out


def test_show_takes_specs_and_plans_made_by_hand(capsys, tmp_path):
    by_hand = Plan((VSkip(layers=(1, 2)),), calibration={"note": "from a paper"}).save(tmp_path / "hand.json")
    assert main(["plan", "show", str(by_hand)]) == 0
    shown = capsys.readouterr().out
    assert "model: any" in shown and "not in the form of saccade calibrate (note)" in shown
    assert main(["plan", "show", "vskip(layers=1-3)", "--json", "-"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["spec"] == "vskip(layers=1-3)" and data["plan"]["methods"] == [
        {"name": "vskip", "layers": [1, 2, 3]}
    ]


def test_show_says_when_the_tower_is_most_of_what_a_tuned_plan_leaves(capsys, tmp_path):
    predicted = {"cost": "FLOPs", "ratio": 0.2, "kl": 0.1, "agreement": 0.9, "samples": 8}
    held = {"ratio": 0.2, "samples": 8, "loss": 0.0, "bound": 0.1, "candidates": 1, "tasks": {}}
    for whole, said in ({"whole_ratio": 0.45, "tower_share": 0.63}, True), ({}, False):
        facts = {
            "asked": {"flops": 0.2},
            "tuned": {"search": {}, "predicted": predicted, "held_out": held | whole},
        }
        file = Plan((VSkip(layers=(1, 2)),), calibration=facts).save(tmp_path / "tuned.json")
        assert main(["plan", "show", str(file)]) == 0
        shown = capsys.readouterr().out
        assert ("is 45.0 % of the dense model's; the vision tower is 63 %" in shown) == said


def test_diff_names_fields_and_exits_0(file, made, capsys, tmp_path):
    other = replace(made, methods=(VSkip(layers=(0, 1)),)).save(tmp_path / "other.json")
    assert main(["plan", "diff", file, str(other), "--json", "-"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert not data["equal"] and all(field.startswith("methods") for field in data["differences"])
    assert main(["plan", "diff", file, str(other)]) == 0
    assert "methods" in capsys.readouterr().out
    assert main(["plan", "diff", file, file]) == 0
    assert "no difference" in capsys.readouterr().out


def test_brackets_are_text_in_tables(made, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "[").mkdir()
    replace(made, calibration={**made.calibration, "date": "[/nope]"}).save("[/b].json")
    made.save("p[bold]q.json")
    assert main(["plan", "diff", "[/b].json", "p[bold]q.json"]) == 0
    out = capsys.readouterr().out
    assert "[/nope]" in out and "p[bold]q.json" in out and "[/b].json" in out


def test_validate_says_what_fits(file, made, model, capsys):
    assert main(["plan", "validate", file, "--model", model]) == 0
    assert f"plan.json is a valid plan: {made.spec}" in capsys.readouterr().out
    assert main(["plan", "validate", "vskip(budget=3)"]) == 0
    assert "layers not chosen yet" in capsys.readouterr().out


def test_validate_refuses_another_model(file, capsys, tmp_path):
    other = str(save_model(tmp_path / "other", layers=3))
    assert main(["plan", "validate", file, "--model", other]) == 2
    assert f"text.layers: {LAYERS} in the plan, 3 here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("{", "is not JSON"),
        ("[]", "is not a plan"),
        ('{"schema": 99, "methods": []}', "schema 99"),
        ('{"schema": 1, "methods": [{"name": "warp"}]}', "methods[0].name: no method 'warp'"),
        (
            '{"schema": 1, "methods": [{"name": "vskip", "speed": 9}]}',
            "methods[0].speed: vskip does not take it",
        ),
        ('{"schema": 1, "methods": [], "colour": 1}', "unknown field colour"),
        (
            '{"schema": 1, "methods": [], "model": {"model_type": "llava", "text": "llama"}}',
            "model.text: an object",
        ),
        ('{"schema": 1, "methods": [], "calibration": {"metric": "vgi"}}', "calibration.metric: one of"),
        (
            '{"schema": 1, "methods": [], "calibration": {"order": [0, 0]}}',
            "calibration.order[1]: layer 0 stands",
        ),
        (
            json.dumps({"schema": 1, "methods": [{"name": "vtw", "layer": 2}] * 101}),
            "methods: at most 100 entries are taken",
        ),
        (None, "no such file"),
    ],
)
def test_validate_says_why_a_file_is_no_plan(content, match, capsys, tmp_path):
    path = tmp_path / "bad.json"
    if content is not None:
        path.write_text(content)
    assert main(["plan", "validate", str(path)]) == 2
    error = capsys.readouterr().err
    assert match in error and error.count("\n") == 1


def test_validate_refuses_layers_the_plans_model_does_not_have(made, capsys, tmp_path):
    path = replace(made, methods=(VSkip(layers=(LAYERS,)),)).save(tmp_path / "deep.json")
    assert main(["plan", "validate", str(path)]) == 2
    assert f"names layer {LAYERS}" in capsys.readouterr().err


def test_validate_compares_weights_when_asked(file, model, capsys, tmp_path):
    import torch

    assert main(["plan", "validate", file, "--model", model, "--strict"]) == 0
    assert "not compared" not in capsys.readouterr().out
    loaded = models.load(model)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            parameter += 0.1
    loaded.model.save_pretrained(tmp_path / "tuned")
    loaded.processor.save_pretrained(tmp_path / "tuned")
    tuned = str(tmp_path / "tuned")
    assert main(["plan", "validate", file, "--model", tuned]) == 0
    assert "weights were not compared" in capsys.readouterr().out
    assert main(["plan", "validate", file, "--model", tuned, "--strict"]) == 2
    assert "made for other weights" in capsys.readouterr().err
    assert main(["plan", "validate", file, "--strict"]) == 2


def test_validate_names_fields_it_does_not_know(made, capsys, tmp_path):
    path = replace(made, calibration=made.calibration | {"oder": [1]}).save(tmp_path / "typo.json")
    assert main(["plan", "validate", str(path)]) == 0
    assert "not known to this version, and kept: calibration.oder" in capsys.readouterr().out
