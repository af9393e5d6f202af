"""``saccade analyze``: plots, data and tables from the embedded model, and errors that name what is wrong."""

from __future__ import annotations

import json

import pytest
from PIL import Image

PLAN = "ffn_skip(layers=1-2)"


@pytest.mark.long(instead="the other tests of this file")
def test_it_writes_plots_and_data_and_shows_which_bounds_fail(program, toy_folder, tmp_path):
    out, file = tmp_path / "analysis", tmp_path / "result.json"
    done = program("analyze", toy_folder, "--plan", PLAN, "--samples", 2, "--out", out, "--json", file)
    assert done.code == 0, done.err
    names = {"ffn.png", "attention.png", "bounds.png", "attention_maps.png", "attention_maps.npz"}
    assert {path.name for path in out.iterdir()} == names | {"analysis.json"}
    for path in out.glob("*.png"):
        with Image.open(path) as picture:
            assert picture.width > 1000
    data = json.loads((out / "analysis.json").read_text("utf-8"))
    result = json.loads(file.read_text("utf-8"))
    assert {key: value for key, value in result.items() if key != "files"} == data
    assert data["plan"] == PLAN and len(data["samples"]) == 2
    assert data["provenance"]["command"].startswith("saccade analyze") and data["provenance"]["versions"]
    groups = data["ffn"]["groups"]
    assert set(groups) == {"visual", "retained", "skipped", "text"}
    assert groups["skipped"]["rows"] == [0, 16, 16, 0]
    for probe in ("p1", "p2", "p3", "p4"):
        assert all(len(groups["text"][probe][key]) == 4 for key in ("mean", "sd", "median"))
    assert all(0 <= share <= 1 for share in data["attention"]["visual_to_visual"]["mean"])
    assert data["attention"]["change"]["mean"][0] is None and max(data["attention"]["vig"]["mean"]) > 1e-3
    verdicts = {one["bound"]: one for one in data["bounds"]["verdicts"]}
    assert verdicts["attention_paper"]["failures"] > 0 and verdicts["ffn_paper"]["failures"] > 0
    assert not [one for one in verdicts.values() if one["form"] == "corrected" and one["failures"]]
    assert (
        "printed and 0 corrected bounds fail" in done.out and f"next: saccade eval {toy_folder}" in done.out
    )


def test_without_a_plan_json_stands_alone_and_bounds_are_left_out(command, tmp_path):
    done = command("analyze", "--samples", 1, "--what", "ffn", "--out", tmp_path / "out", "--json", "-")
    data = done.json
    assert done.code == 0 and data["plan"] is None and not {"attention", "bounds"} & set(data)
    assert list(data["files"]) == ["ffn", "data"]
    assert "next: saccade analyze glance --plan 'ffn_skip(layers=0-11)'" in done.err


def test_users_own_questions_are_drawn_from(command, tmp_path):
    Image.new("RGB", (80, 80), "red").save(tmp_path / "red.png")
    lines = [{"image": "red.png", "question": "what color ?"}, {"question": "what is red ?"}]
    data = tmp_path / "mine.jsonl"
    data.write_text("\n".join(map(json.dumps, lines)))
    words = ("--data", data, "--what", "ffn", "--out", tmp_path / "out", "--json", "-")
    found = command("analyze", *words).json
    assert found["samples"] == ["mine/1"] and found["without_image"] == 1 and found["tasks"] == ["mine"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--what", "ffn,maps"), "--what is a list of ffn, attention, bounds"),
        (("--what", "bounds", "--samples", 1), "nothing here skips the FFN"),
        (("--plan", "ffn_skip(layers=40)", "--samples", 1), "names layer 40"),
        (("--plan", "nomethod(layers=1)"), "no method 'nomethod'"),
        (("--samples", 0), "--samples"),
        (("--task", "nothing"), "nothing"),
        (("--data", "no/such/file.jsonl"), "no such file"),
        (
            ("--plan", "fastv(keep=0.5,layer=3,position_policy=compact)", "--samples", 1),
            "position_policy=keep",
        ),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(command, tmp_path, words, expected):
    done = command("analyze", *words, "--out", tmp_path / "out")
    assert done.code == 2 and done.out == ""
    errors = [line for line in done.err.splitlines() if line.startswith("saccade: error: ")]
    assert len(errors) == 1 and expected in errors[0]


def test_a_file_where_the_folder_should_be_is_refused_before_the_work(command, tmp_path):
    (tmp_path / "out").write_text("mine")
    done = command("analyze", "--out", tmp_path / "out")
    assert done.code == 2 and "is a folder" in done.err and (tmp_path / "out").read_text() == "mine"
