"""A hub id's revision is the one that a command was told, whichever command it is."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from saccade.cli import main
from saccade.plans.plan import Plan
from support import folders, hub, models

NAME = "somebody/tiny-llava"
LAYERS = {"main": 4, "v2": 3}


@pytest.fixture(scope="module")
def revisions(tmp_path_factory):
    base = tmp_path_factory.mktemp("revisions")
    return {
        name: folders.write(base / name, "llava-llama", models.tiny_llava(layers=layers))
        for name, layers in LAYERS.items()
    }


@pytest.fixture
def served(revisions, monkeypatch, tmp_path):
    from huggingface_hub import constants

    with hub.serving() as found:
        found.repositories[NAME] = revisions
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", found.url)
        template = found.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield found


@pytest.fixture
def asked(tmp_path):
    Image.new("RGB", (40, 30), "red").save(tmp_path / "red.png")
    data = tmp_path / "questions.jsonl"
    data.write_text(json.dumps({"image": "red.png", "question": "w3 w4", "answer": "w5"}) + "\n", "utf-8")
    return tmp_path


def ask(capsys, *words: object) -> dict:
    code = main([str(word) for word in (*words, "--json", "-")])
    told = capsys.readouterr()
    assert code == 0, told.err
    return json.loads(told.out)


COMMANDS = {
    "cost": (["cost", NAME], lambda found: found["shape"]["layers"]),
    "bench": (
        ["bench", NAME, "--visual", 4, "--text", 2, "--new-tokens", 1, "--repeats", 1],
        lambda found: found["layers"],
    ),
    "generate": (
        ["generate", NAME, "--question", "w3 w4", "--image", "red.png", "--max-new-tokens", 2],
        lambda found: len(found["dense"]["kv_lengths"]),
    ),
    "calibrate": (
        ["calibrate", NAME, "--data", "questions.jsonl", "--samples", 1, "--budget", 1, "--out", "plan.json"],
        lambda found: len(found["plan"]["calibration"]["scores"]["mean"]),
    ),
    "check": (
        ["check", NAME, "--plan", "vtw(layer=1)", "--layers", 2, "--image", "red.png"],
        lambda found: found["model"]["layers"],
    ),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_takes_the_revision_it_was_told(name, served, asked, capsys, monkeypatch):
    words, layers = COMMANDS[name]
    monkeypatch.chdir(asked)
    assert layers(ask(capsys, *words, "--revision", "v2")) == LAYERS["v2"]
    assert served.commit(NAME, "main") not in "".join(served.asked)


def test_a_plan_is_held_against_the_revision(served, capsys):
    words = ["plan", "validate", "vskip(layers=3)", "--model", NAME, "--device", "cpu", "--strict"]
    assert ask(capsys, *words)["revision"] is None
    assert main([*words, "--revision", "v2"]) == 2
    assert "3" in capsys.readouterr().err


def test_results_and_plan_files_say_how_the_model_was_opened(served, asked, capsys, monkeypatch):
    monkeypatch.chdir(asked)
    how = ["--revision", "v2", "--dtype", "bf16", "--attn", "eager", "--device", "cpu"]
    told = {"revision": "v2", "dtype": "bf16", "attn": "eager", "commit": served.commit(NAME, "v2")}
    told |= {
        "quantize": None,
        "adapter": None,
        "device_map": None,
        "trust_remote_code": False,
        "generic": False,
    }
    for name in ("bench", "generate", "check"):
        words, _ = COMMANDS[name]
        opening = ask(capsys, *words, *how)["provenance"]["opening"]
        assert opening.items() >= told.items(), name
    words, _ = COMMANDS["calibrate"]
    found = ask(capsys, *words, *how)["plan"]["calibration"]
    assert found["opening"] == told
    assert Plan.load("plan.json").calibration["opening"] == told
    assert ask(capsys, "plan", "validate", "plan.json")["unknown"] == []


def test_a_model_that_others_opened_says_nothing_of_it(llava):
    from saccade.measure import record

    assert record(model=llava.model)["opening"] is None
