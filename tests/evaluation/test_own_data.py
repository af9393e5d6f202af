"""``saccade eval --data``: every rule in one file, on answers that the stock model is known to give."""

from __future__ import annotations

import json

import pytest

from support.asking import say


@pytest.fixture
def data(toy, questions, tmp_path):
    """A model folder, and questions with what the stock model says to each."""
    folder = tmp_path / "toy"
    toy.model.save_pretrained(folder)
    toy.processor.save_pretrained(folder)
    told = []
    for i, sample in enumerate(questions[:6]):
        sample.images[0].save(tmp_path / f"{i}.png")
        told.append(({"image": f"{i}.png", "question": sample.question, "task": "mine"}, say(toy, sample)))
    assert all(len(said) > 3 for _, said in told)
    return folder, tmp_path / "mine.jsonl", told


def write(path, rows) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_each_line_is_scored_by_its_own_rule(command, data, tmp_path):
    folder, path, told = data
    rows = [row for row, _ in told]
    said = [text for _, text in told]
    rows[0] |= {"answer": said[0]}
    rows[1] |= {"answer": ["something else", said[1].upper() + "."]}
    rows[2] |= {"answer": said[2] + "x", "score": "anls"}
    rows[3] |= {"answer": said[3].split()[0], "score": "contains"}
    rows[4] |= {"answer": "B", "score": "option"}
    rows[5] |= {"answer": said[5] + "x"}
    write(path, rows)
    kept = tmp_path / "answers.json"
    words = ("eval", folder, "--data", path, "--max-new-tokens", 4, "--device", "cpu", "--predictions", kept)
    done = command(*words, "--plan", "vtw(layer=0)", "--json", "-")
    assert done.code == 0, done.err
    near = len(said[2]) / (len(said[2]) + 1)
    scores = [p["score"] for p in json.loads(kept.read_text())[0]["predictions"]]
    assert scores == pytest.approx([1, 1, near, 1, 0, 0])
    task = done.json["dense"]["tasks"]["mine"]
    assert task["accuracy"] == pytest.approx((3 + near) / 6)
    assert task["low"] < task["accuracy"] < task["high"] and task["retention"] == 1
    assert done.json["scores"] == ["exact", "anls", "contains", "option"]
    assert done.json["plans"][0]["tasks"]["mine"]["difference"] <= 0


def test_a_task_may_have_any_name(command, data, tmp_path):
    folder, path, told = data
    names = ["chart[/human]", "[bold]x", "mean", "a|b", "$x^$", "[/red]"]
    write(path, [row | {"answer": "red", "task": name} for (row, _), name in zip(told, names, strict=True)])
    out = tmp_path / "out.json"
    words = ("eval", folder, "--data", path, "--max-new-tokens", 2, "--device", "cpu", "--no-blind")
    done = command(*words, "--plan", "vtw(layer=0)", "--json", out)
    assert done.code == 0, done.err
    assert all(name in done.out for name in names)
    assert list(json.loads(out.read_text())["dense"]["tasks"]) == names


def test_results_and_answers_do_not_go_to_one_file(command, data, tmp_path):
    folder, path, told = data
    write(path, [row | {"answer": "red"} for row, _ in told])
    same = tmp_path / "deep" / ".." / "out.json"
    words = ("eval", folder, "--data", path, "--device", "cpu", "--json", tmp_path / "out.json")
    done = command(*words, "--predictions", same)
    assert done.code == 2 and "--json and --predictions both write" in done.err
    assert not (tmp_path / "out.json").exists()


def test_a_rule_for_the_file_and_its_name_beside_the_table(command, data):
    folder, path, told = data
    write(path, [row | {"answer": said + "x"} for row, said in told])
    words = ("eval", folder, "--data", path, "--max-new-tokens", 4, "--device", "cpu", "--no-blind")
    done = command(*words, "--score", "anls(threshold=0.4)")
    assert done.code == 0 and "scored by anls(threshold=0.4);" in done.out, done.err
    exact = command(*words, "--json", "-")
    assert exact.json["dense"]["mean"]["accuracy"] == 0 and exact.json["scores"] == ["exact"]


@pytest.mark.parametrize(
    ("row", "words", "message"),
    [
        ({"answer": "many"}, ("--score", "number"), "line 1: score number needs a number"),
        ({"answer": "x", "score": "nosuch"}, (), "line 1: no score 'nosuch'"),
        ({"answer": "x"}, ("--score", "number(x=1)"), "no parameter 'x'"),
        ({"score": "yes_no"}, (), "no answer"),
    ],
)
def test_what_cannot_be_scored_is_named(command, tmp_path, row, words, message):
    path = tmp_path / "mine.jsonl"
    write(path, [{"question": "what ?"} | row])
    done = command("eval", "glance", "--data", path, "--device", "cpu", *words)
    assert done.code == 2 and message in done.err.strip().split("\n")[-1]
