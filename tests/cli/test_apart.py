"""Results never take the place of what a command reads, nor of one another."""

from __future__ import annotations

import re

import pytest
from PIL import Image

from saccade.cli import main


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save("own.png")
    (tmp_path / "own.jsonl").write_text('{"question": "what?", "image": "own.png", "answer": "a"}\n')
    (tmp_path / "own.json").write_text('{"schema": 1, "methods": [{"name": "vskip", "layers": [1]}]}')
    (tmp_path / "own.yaml").write_text(
        "{stage: 2, data: [{kind: conversations, file: own.jsonl}], plan: own.json, "
        "optimisation: {batch: 1, steps: 1}}"
    )
    (tmp_path / "frames").mkdir()
    Image.new("RGB", (8, 8)).save("frames/own.png")
    (tmp_path / "model").mkdir()
    Image.new("RGB", (8, 8)).save("model/explain.png")
    (tmp_path / "model" / "config.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ("eval glance --data own.jsonl --json own.jsonl", r"--json would write over .*own\.jsonl.*data"),
        ("eval glance --data own.jsonl --json ./model/../own.jsonl", "--json would write over"),
        ("eval glance --json a.json --predictions a.json", "both"),
        ("calibrate glance --data own.jsonl --out own.jsonl", "--out would write over"),
        ("calibrate glance --out same.json --json same.json", "--json and --out both write"),
        ("generate --image own.png --question what --json own.png", "image"),
        ("generate --image own.png --question what --plan own.json --json own.json", "plan"),
        ("explain own.png what --plan own.json --output own.png", "--output would write over"),
        ("generate --video frames --question what --json frames/own.png", "would write over .*video"),
        ("explain model/explain.png what --plan vtw(layer=4) --output model", "would write over .*image"),
        ("train own.yaml --json own.jsonl", r"--json would write over .*own\.jsonl.*data"),
        ("train own.yaml --json own.json", "plan"),
        ("train own.yaml --set model.name=model --json model/config.json", "model"),
        ("train own.yaml --set model.name=model --run . --resume", "over the model it trains"),
        ("bench glance --plan own.json --json own.json", "plan"),
        ("cost model --json model/config.json", "model"),
        ("plan show own.json --json own.json", "plan"),
        ("report own.json --out own.json", "results"),
    ],
)
def test_it_is_refused_in_one_line_and_the_file_stays(folder, capsys, words, what):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert main(words.split()) == 2
    said = capsys.readouterr().err
    assert re.search(what, said) and said.count("\n") == 1
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_devices_may_take_several_results(folder, capsys):
    assert main(["cost", "llava-1.5-7b", "--plan", "vskip(layers=1)", "--json", "/dev/null"]) == 0
