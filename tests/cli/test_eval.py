"""``saccade eval``: promised fields, own data, layers for budgets, resume, and errors in one line."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from saccade.evaluation import runner
from saccade.plans.spec import parse

HARD = "vtw(layer=0)"


@pytest.fixture
def data(tmp_path):
    """Questions of two tasks as a user would write them."""
    lines = []
    for i in range(6):
        Image.new("RGB", (40, 40), (40 * i, 200 - 30 * i, 90)).save(tmp_path / f"{i}.png")
        task = "colours" if i % 2 else "counts"
        lines.append({"image": f"{i}.png", "question": "what color is it ?", "answer": "red", "task": task})
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_json_has_the_promised_fields(command, toy_folder, data):
    done = command("eval", toy_folder, "--data", data, "--plan", HARD, "--max-new-tokens", 2, "--json", "-")
    assert done.code == 0, done.err
    found = done.json
    for entry in (found["dense"], *found["plans"]):
        assert set(entry["tasks"]) == {"colours", "counts"}
        for score in entry["tasks"].values():
            assert {"accuracy", "n", "low", "high", "blind", "retention"} <= set(score)
            assert score["n"] == 3
    assert found["plans"][0]["spec"] == HARD and found["plans"][0]["cost"]["equivalent_tokens"] == 0
    assert found["provenance"]["versions"]


def test_tables_name_every_plan(command, toy_folder, data):
    done = command(
        "eval", toy_folder, "--data", data, "--plan", HARD, "--plan", "vskip(layers=1)", "--max-new-tokens", 2
    )
    assert done.code == 0, done.err
    assert HARD in done.out and "vskip(layers=1)" in done.out and "colours" in done.out and "mean" in done.out


def test_a_report_puts_an_evaluation_beside_the_plan_that_was_made_on_the_model(
    command, toy_folder, data, tmp_path
):
    plan, scores = tmp_path / "plan.json", tmp_path / "eval.json"
    made = ("--data", data, "--budget", 1, "--samples", 2, "--no-check", "--out", plan)
    assert command("calibrate", toy_folder, *made).code == 0
    asked = ("--data", data, "--plan", plan, "--max-new-tokens", 2, "--no-blind", "--json", scores)
    assert command("eval", toy_folder, *asked).code == 0
    done = command("report", scores, plan, "--out", tmp_path / "report.html", "--json", "-")
    (model,) = done.json["models"]
    assert model["name"] == str(toy_folder) and model["weights"] and len(model["files"]) == 2


def test_the_suite_is_asked_by_task(command, toy_folder):
    words = ("--task", "count", "--samples", 2, "--max-new-tokens", 2, "--no-blind", "--json", "-")
    done = command("eval", toy_folder, *words)
    assert done.code == 0, done.err
    assert list(done.json["dense"]["tasks"]) == ["count"] and done.json["dense"]["mean"]["n"] == 2
    assert done.json["blind"] is None and done.json["dense"]["mean"]["blind"] is None


def test_budgets_get_layers_from_a_quick_calibration_or_a_plan_file(command, toy_folder, data, tmp_path):
    words = ("eval", toy_folder, "--data", data, "--max-new-tokens", 2, "--no-blind", "--json", "-")
    done = command(*words, "--plan", "vskip(budget=2)", "--plan", "shortv(flops=0.8)")
    assert done.code == 0, done.err
    order = done.json["orders"]["vig"]
    assert sorted(order) == [0, 1, 2, 3] and order[0] == 3  # the last layer's visual rows are never read
    by_name = {plan["name"]: plan for plan in done.json["plans"]}
    assert layers(by_name["vskip(budget=2)"]) == tuple(sorted(order[:2]))
    assert by_name["shortv(flops=0.8)"]["cost"]["flops_ratio"] <= 0.8

    kept = tmp_path / "order.json"
    calibration = {"metric": "vig", "order": [1, 0, 2, 3]}
    kept.write_text(json.dumps({"schema": 1, "methods": [], "model": {}, "calibration": calibration}))
    done = command(*words, "--plan", "vskip(budget=2)", "--order", kept)
    assert done.code == 0, done.err
    assert layers(done.json["plans"][0]) == (0, 1)


def test_questions_that_a_plan_was_made_on_are_counted(command, toy_folder, data, tmp_path):
    plan = tmp_path / "plan.json"
    done = command("calibrate", toy_folder, "--data", data, "--samples", 4, "--budget", 2, "--out", plan)
    assert done.code == 0, done.err
    words = ("eval", toy_folder, "--data", data, "--max-new-tokens", 2, "--no-blind")
    for more in (
        ("--plan", plan),
        ("--plan", plan, "--force"),
        ("--plan", "vskip(budget=1)", "--order", plan),
    ):
        done = command(*words, *more)
        assert done.code == 0 and "made on 4 of these 6 questions" in done.out, done.out + done.err
    done = command(*words, "--plan", "vskip(budget=1)", "--json", tmp_path / "own.json")
    assert "made on" not in done.out and "chosen on some of these questions" in done.out
    assert json.loads((tmp_path / "own.json").read_text())["seen_before"] == {}
    # Others by the same names.
    data.write_text(data.read_text().replace("what color", "which color"))
    done = command(*words, "--plan", plan)
    assert done.code == 0 and "made on" not in done.out, done.out + done.err


def layers(entry):
    return parse(entry["spec"])[0].layers


def test_predictions_are_kept_one_by_one(command, toy_folder, data, tmp_path):
    kept = tmp_path / "answers.json"
    done = command(
        "eval", toy_folder, "--data", data, "--plan", HARD, "--max-new-tokens", 2, "--predictions", kept
    )
    assert done.code == 0, done.err
    runs = json.loads(kept.read_text())
    assert [run["plan"] for run in runs] == ["dense", "blind", HARD]
    ids = [[p["id"] for p in run["predictions"]] for run in runs]
    assert ids[0] == ids[1] == ids[2] and len(ids[0]) == 6


def test_an_interrupted_run_goes_on(command, toy_folder, data, tmp_path, monkeypatch):
    out = tmp_path / "result.json"
    words = ("eval", toy_folder, "--data", data, "--plan", HARD, "--max-new-tokens", 2, "--json", out)
    real, calls = runner.generate, []

    def faulty(*args):
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(args)
        return real(*args)

    monkeypatch.setattr(runner, "generate", faulty)
    stopped = command(*words)
    assert stopped.code == 130 and "repeat the command" in stopped.err
    assert not out.exists()
    monkeypatch.setattr(runner, "generate", lambda *a: calls.append(a) or real(*a))
    done = command(*words)
    assert done.code == 0 and len(calls) == 6  # two tasks; dense, blind, plan
    assert json.loads(out.read_text())["dense"]["mean"]["n"] == 6
    assert not (tmp_path / "result.json.partial.jsonl").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--task", "nosuch"), "nosuch"),
        (("--task", "count", "--data", __file__), "not both"),
        (("--data", "nosuch.jsonl"), "no such file"),
        (("--plan", "vskip(layers=1"), "vskip"),
        (("--plan", "nosuch.json"), "no such file"),
        (("--order", "nosuch.json"), "no such file"),
        (("--samples", "0"), "--samples"),
        (("--json", "/"), "folder"),
        (("--plan", "vskip(layers=7)", "--task", "count", "--samples", "1"), "layer 7"),
    ],
)
def test_bad_input_is_one_clear_line(command, toy_folder, words, message):
    done = command("eval", toy_folder, *words)
    assert done.code == 2
    assert message in done.err.split("\n")[-2] and "Traceback" not in done.err


def test_answers_are_needed(command, toy_folder, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    path = tmp_path / "mine.jsonl"
    row = '{"image": "a.png", "question": "what ?", "id": "mine%d"%s}\n'
    path.write_text(row % (1, ', "answer": "red"') + row % (2, ""))
    done = command("eval", toy_folder, "--data", path)
    assert done.code == 2 and f"{path}, line 2: no answer" in done.err and "key 'answer'" in done.err


def test_a_plan_of_another_model_is_refused_unless_forced(command, toy_folder, data, tmp_path):
    plan = tmp_path / "plan.json"
    methods = [{"name": "vskip", "layers": [1]}]
    plan.write_text(json.dumps({"schema": 1, "methods": methods, "model": {"model_type": "other"}}))
    words = ("eval", toy_folder, "--data", data, "--plan", plan, "--max-new-tokens", 2, "--no-blind")
    refused = command(*words)
    assert refused.code == 2 and "another model" in refused.err
    assert command(*words, "--force").code == 0
