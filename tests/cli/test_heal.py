"""`saccade heal`: what it writes and says, what it refuses in one line, and its page."""

from __future__ import annotations

import json

import pytest

from calibration.vlm import picture, questions_file, save_model
from saccade.cli import heal as command
from saccade.cli import main
from saccade.evaluation.asked import seen_before
from saccade.healing import HealingSettings
from saccade.inputs.data import load_jsonl
from saccade.plans.plan import Plan

SPEC = "fastv(keep=0.4,layer=2)"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(save_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def mine(tmp_path_factory) -> str:
    lines = [{"task": "ab"[number % 2]} for number in range(18)]
    return questions_file(tmp_path_factory.mktemp("mine"), lines)


SMALL = ["--samples", "8", "--steps", "4", "--batch", "2", "--max-new-tokens", "2", "--rank", "2"]


def test_a_plan_gives_a_healed_one_a_table_a_page_and_the_next_command(model, mine, tmp_path, capsys):
    out = tmp_path / "healed"
    words = [model, SPEC, "--data", mine, *SMALL, "--out", str(out)]
    assert main(["heal", *words, "--json", str(tmp_path / "all.json")]) == 0
    shown = capsys.readouterr()
    plan = Plan.load(out / "plan.json")
    assert plan.spec == SPEC and plan.adapter is not None
    assert f"next: saccade eval {model} --plan {out / 'plan.json'} --data QUESTIONS.jsonl" in shown.out
    assert f"QUESTIONS.jsonl: questions that are not in {mine}" in shown.out
    assert "4 steps of 2 questions" in shown.out and "same answers as dense" in shown.out
    assert json.loads((tmp_path / "all.json").read_text())["heal"]["spec"] == SPEC
    page = tmp_path / "healed.html"
    assert main(["report", str(out / "heal.json"), str(out / "plan.json"), "--out", str(page)]) == 0
    text = page.read_text()
    assert "The plan that was healed" in text and "data:image/png;base64" in text
    assert main(["plan", "validate", str(out / "plan.json"), "--model", model]) == 0
    capsys.readouterr()
    assert main(["plan", "show", str(out / "plan.json")]) == 0
    told = capsys.readouterr().out
    assert "layers: chosen by hand" in told and "healed in 4 steps on 8 questions" in told
    questions = load_jsonl(mine, answered=False)
    assert seen_before({SPEC: plan.calibration}, questions) == {SPEC: 8}
    # The same command again has nothing left to do, and says the same.
    assert main(["heal", *words]) == 0
    assert "4 steps of 2 questions" in capsys.readouterr().out and Plan.load(out / "plan.json") == plan
    assert main(["heal", model, "vtw(layer=2)", *words[2:]]) == 2
    assert "choose another folder with --out" in capsys.readouterr().err
    asked = ["--image", str(tmp_path / "one.png"), "--question", "is it red?", "--max-new-tokens", "2"]
    picture(3).save(tmp_path / "one.png")
    assert main(["generate", model, "--plan", str(out / "plan.json"), *asked]) == 0
    for refused in (
        ["check", model, "--plan", str(out / "plan.json")],
        ["heal", model, str(out / "plan.json"), *words[2:]],
    ):
        capsys.readouterr()
        assert (
            main(refused) == 2
            and len(capsys.readouterr().err.strip().splitlines()[-1].split(": error: ")) == 2
        )


@pytest.mark.parametrize(
    ("plan", "words", "said"),
    [
        ("nosuch(layer=1)", [], "no method 'nosuch'"),
        ("nosuch.json", [], "no such file: nosuch.json"),
        (SPEC, ["--lr", "0"], "lr is a number above 0"),
        (SPEC, ["--data", "none.jsonl"], "none.jsonl"),
        (SPEC, ["--task", "nothing"], "unknown task 'nothing'"),
        (SPEC, ["--steps", "0"], "greater than or equal to 1"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_opened(plan, words, said, model, tmp_path, capsys):
    out = tmp_path / "healed"
    assert main(["heal", model, plan, *words, "--out", str(out)]) == 2
    shown = capsys.readouterr().err.strip().splitlines()
    assert said in shown[-1] and "Traceback" not in shown[-1] and not list(tmp_path.iterdir())


def test_defaults_are_those_of_python():
    mine = HealingSettings()
    assert mine.learn_steps == command.LEARN_STEPS
    found = (mine.steps, mine.num_samples, mine.num_held_out, mine.batch, mine.rank, mine.tokens)
    assert found == (
        command.STEPS, command.HEAL_SAMPLES, command.HELD_OUT, command.BATCH, command.RANK, command.TOKENS,
    )  # fmt: skip
