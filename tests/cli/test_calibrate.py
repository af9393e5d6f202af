"""`saccade calibrate`: one command for a task, a mixture and one's own questions."""

from __future__ import annotations

import json

import pytest

from calibration.vlm import LAYERS, questions_file, save_model
from saccade.cli import main
from saccade.plans.plan import Plan

FIT = ["--method", "fitprune", "--flops", "0.8"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(save_model(tmp_path_factory.mktemp("model")))


@pytest.fixture
def mine(tmp_path) -> str:
    return questions_file(tmp_path, [{"subtask": "ab"[number % 2]} for number in range(4)])


def test_own_questions_give_a_plan_a_table_and_the_next_command(model, mine, tmp_path, capsys):
    out = tmp_path / "plan.json"
    words = ["--budget", "2", "--samples", "3", "--data", mine, "--draw", "stratified", "--seed", "5"]
    assert main(["calibrate", model, *words, "--out", str(out)]) == 0
    shown = capsys.readouterr()
    plan = Plan.load(out)
    facts = plan.calibration
    assert len(plan.methods[0].layers) == 2 and LAYERS - 1 in plan.methods[0].layers
    assert (facts["draw"], facts["seed"], facts["tasks"], len(facts["samples"])) == (
        "stratified",
        5,
        ["mine"],
        3,
    )
    rows = [line.split("│")[1:-1] for line in shown.out.splitlines() if line.startswith("│")]
    assert [int(row[0]) for row in rows] == list(range(LAYERS))
    assert {int(row[0]) for row in rows if row[5].strip() == "yes"} == set(plan.methods[0].layers)
    assert [int(row[4]) for row in rows] == [facts["order"].index(n) + 1 for n in range(LAYERS)]
    worst = facts["order"][-1]
    assert rows[worst][3].strip() == "█" * 24 and not rows[LAYERS - 1][3].strip()
    assert f"written to {out}" in shown.out
    assert f"saccade eval {model} --plan {out} --data QUESTIONS.jsonl" in shown.out
    assert "of the FLOPs" in shown.out and "brute force" in shown.out
    assert "calibrating" in shown.err and "calibrating" not in shown.out
    assert sorted(p.name for p in tmp_path.glob("plan*")) == ["plan.json"]


def test_samples_without_a_picture_are_told_of(model, mine, tmp_path, capsys):
    """No layer loses anything on them, so that a bound on the mean is passed sooner."""
    text = tmp_path / "text.jsonl"
    line = json.dumps({"question": "what is this?", "answer": "a"})
    with open(mine) as pictured:
        text.write_text(f"{pictured.read().strip()}\n{line}\n{line}\n")
    for data, number, told in ((mine, 4, False), (str(text), 6, True)):
        words = [
            "--budget",
            "1",
            "--samples",
            str(number),
            "--data",
            data,
            "--out",
            str(tmp_path / "plan.json"),
        ]
        assert main(["calibrate", model, *words]) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert ("2 of these 6 samples have no picture: no layer loses anything" in said) == told
    # There is no mean over samples in a permutation, and in a fit they have no share.
    for other, told in ((["--budget", "1", "--score", "random"], None), (FIT, "no picture: are left out")):
        words = [*other, "--data", str(text), "--out", str(tmp_path / "plan.json")]
        assert main(["calibrate", model, *words]) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert "no layer loses anything" not in said and ("no picture" in said) == bool(told)
        assert not told or told in said


def test_a_file_of_few_questions_is_taken_whole(model, tmp_path, capsys):
    """Twenty are drawn unless told otherwise, which nobody asked for who has less."""
    few = questions_file(tmp_path, [{}])
    words = ["--budget", "1", "--data", few, "--no-check", "--out", str(tmp_path / "plan.json")]
    assert main(["calibrate", model, *words]) == 0
    assert "1 sample (global draw, seed 0) of" in capsys.readouterr().out
    assert len(Plan.load(tmp_path / "plan.json").calibration["samples"]) == 1


def test_more_tokens_of_the_answer_are_looked_at_when_asked_for(model, mine, tmp_path, capsys):
    out = tmp_path / "plan.json"
    words = ["--budget", "1", "--samples", "2", "--data", mine, "--answer-tokens", "3", "--out", str(out)]
    assert main(["calibrate", model, *words]) == 0
    assert Plan.load(out).calibration["answer_tokens"] == 3
    assert "the first 3 tokens of the answer" in " ".join(capsys.readouterr().out.split())
    assert main(["calibrate", model, *words[:-4], "--answer-tokens", "0"]) == 2


def test_json_on_standard_output_stands_alone(model, mine, tmp_path, capsys):
    out = tmp_path / "plan.json"
    words = ["--method", "shortv", "--budget", "1", "--samples", "2", "--data", mine, "--no-check"]
    assert main(["calibrate", model, *words, "--out", str(out), "--json", "-"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["plan"] == json.loads(out.read_text()) and Plan.from_dict(data["plan"]) == Plan.load(out)
    assert data["spec"] == f"shortv(layers={LAYERS - 1})" and data["plan"]["calibration"]["cost"] == {}


def test_tasks_of_the_suite_and_their_mixture(model, tmp_path, capsys):
    from saccade.glance.suite import TASKS

    first, second = list(TASKS)[:2]
    out = tmp_path / "plan.json"
    common = ["calibrate", model, "--budget", "1", "--no-check", "--out", str(out)]
    assert main([*common, "--samples", "4", "--draw", "stratified", "--task", first, "--task", second]) == 0
    facts = Plan.load(out).calibration
    assert sorted(facts["tasks"]) == sorted([first, second])
    assert all(name.startswith("calibration/") for name in facts["samples"])
    assert main([*common, "--samples", str(len(TASKS)), "--draw", "stratified", "--score", "random"]) == 0
    assert len(Plan.load(out).calibration["tasks"]) > len(TASKS) // 2
    assert main([*common, "--samples", "2", "--mixture", "--score", "random"]) == 0
    capsys.readouterr()


def test_vtw_says_when_nothing_can_be_withdrawn(model, mine, tmp_path, capsys):
    out = tmp_path / "plan.json"
    words = ["--method", "vtw", "--eta", "0", "--samples", "2", "--data", mine, "--no-check"]
    assert main(["calibrate", model, *words, "--out", str(out)]) == 0
    assert Plan.load(out).spec == f"vtw(layer={LAYERS})"
    assert "no layer has a mean KL of at most 0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--samples", "9"], "asked for 9 samples, but there are 4"),
        (["--samples", "2", "--task", "exist"], "give --task, --data or --mixture"),
        (["--samples", "2", "--direction", "left"], "direction is perturbed-full"),
        (["--samples", "2", "--draw", "all"], "draw is global or stratified"),
        (["--samples", "2", "--score", "best"], "no score 'best'"),
        (["--samples", "2", "--method", "vskip(layers=1)"], "knows its layers already"),
        (["--samples", "2", "--out", "/"], "cannot write /: it is a folder"),
        (["--samples", "0"], "--samples"),
    ],
)
def test_bad_input_is_refused_before_a_model_is_loaded(mine, capsys, monkeypatch, tmp_path, words, match):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("saccade.cli.calibrate.opened", None)
    assert main(["calibrate", "glance", "--budget", "1", "--data", mine, *words]) == 2
    error = capsys.readouterr().err
    assert match in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--task", "juggling"], "unknown task 'juggling'"),
        (["--data", "none.jsonl"], "no such file: none.jsonl"),
        (["--data", "broken.jsonl"], "broken.jsonl, line 2: not JSON"),
        (["--data", "empty.jsonl"], "empty.jsonl is empty"),
    ],
)
def test_bad_data_are_refused_with_their_line(capsys, monkeypatch, tmp_path, words, match):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.jsonl").write_text('{"question": "x"}\n{"question\n')
    (tmp_path / "empty.jsonl").write_text("")
    monkeypatch.setattr("saccade.cli.calibrate.opened", None)
    assert main(["calibrate", "glance", "--budget", "1", "--samples", "1", *words]) == 2
    assert match in capsys.readouterr().err


def test_a_budget_beyond_the_model_is_refused(model, mine, capsys, tmp_path):
    words = ["--budget", "40", "--samples", "2", "--data", mine, "--out", str(tmp_path / "p.json")]
    assert main(["calibrate", model, *words]) == 2
    assert f"a budget of 40 layers, but the model has {LAYERS}" in capsys.readouterr().err
    assert not list(tmp_path.glob("p.json*"))


def test_an_interruption_says_how_to_go_on_and_the_same_command_does(
    model, mine, capsys, tmp_path, monkeypatch
):
    from saccade.engine.replay import Replayer

    out = tmp_path / "plan.json"
    words = [
        "calibrate",
        model,
        "--budget",
        "1",
        "--samples",
        "4",
        "--data",
        mine,
        "--no-check",
        "--out",
        str(out),
    ]
    true, calls = Replayer.record, []

    def interrupted(self, inputs, tail):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return true(self, inputs, tail)

    monkeypatch.setattr(Replayer, "record", interrupted)
    assert main(words) == 130
    assert "repeat the command" in capsys.readouterr().err and not out.exists()
    assert main(words) == 0 and len(calls) == 3 + 2
    assert sorted(p.name for p in tmp_path.glob("plan*")) == ["plan.json"]
