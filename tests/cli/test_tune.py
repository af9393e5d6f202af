"""`saccade tune`: what it writes and says, what it refuses in one line, and its page."""

from __future__ import annotations

import json
from functools import partial

import pytest

from calibration.vlm import questions_file, save_model
from saccade.cli import main, tune
from saccade.plans.plan import Plan
from saccade.tuning import Settings


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(save_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def mine(tmp_path_factory) -> str:
    lines = [{"task": "ab"[number % 2]} | ({"answer": "red"} if number else {}) for number in range(18)]
    return questions_file(tmp_path_factory.mktemp("mine"), lines)


SMALL = ["--samples", "8", "--passes", "60", "--max-new-tokens", "3", "--allow", "freeze,drop"]


def test_a_budget_gives_a_plan_a_table_a_page_and_the_next_command(model, mine, tmp_path, capsys):
    out = tmp_path / "plan.json"
    words = ["--flops", "0.7", "--data", mine, *SMALL, "--explain", "--unsure", "0.2"]
    assert main(["tune", model, *words, "--out", str(out), "--json", str(tmp_path / "all.json")]) == 0
    shown = capsys.readouterr()
    plan = Plan.load(out)
    assert plan.calibration["tuned"]["predicted"]["ratio"] <= 0.7
    assert f"plan: {plan.spec}, written to {out}" in shown.out
    assert "chosen: of the plans that fit" in shown.out
    # Not on what it was searched on: those questions were seen, and one of them has no answer.
    assert f"next: saccade eval {model} --plan {out} --data QUESTIONS.jsonl" in shown.out
    assert "what undoing a choice changes" in shown.out and "the dense model answers" in shown.out
    assert "at most 60 forward passes" in shown.err and "search" in shown.err
    assert json.loads((tmp_path / "all.json").read_text())["tune"]["spec"] == plan.spec
    assert main(["plan", "show", str(out)]) == 0
    told = capsys.readouterr().out
    assert "tuned for flops 0.7: " in told and "held-out samples" in told
    guard = "where the first token leads by less than"
    assert guard in shown.out and guard in told
    assert main(["plan", "validate", str(out), "--model", model]) == 0
    page = tmp_path / "tune.html"
    assert main(["report", str(tmp_path / "plan.tune.json"), str(out), "--out", str(page)]) == 0
    text = page.read_text()
    assert "The plan that was tuned" in text and "data:image/png;base64" in text and plan.spec in text
    assert guard in text


@pytest.mark.e2e
def test_a_loss_that_cannot_be_proven_ends_with_one_line(model, mine, tmp_path, capsys):
    out = tmp_path / "plan.json"
    out.write_text("{}")
    assert main(["tune", model, "--max-loss", "0.5", "--data", mine, *SMALL, "--out", str(out)]) == 2
    shown = capsys.readouterr()
    last = shown.err.strip().splitlines()[-1]
    assert last.startswith("saccade: error: no plan is proven to lose at most 0.5 points")
    # No plan is written, and the one that lies there is not taken for the outcome.
    assert out.read_text() == "{}" and last.endswith(f"; {out} is what a former run wrote)")
    assert (tmp_path / "plan.front").is_dir()
    told = " ".join(shown.err.split())
    assert "10 held-out samples prove of no plan" in told and "1 of 18 samples have no answer" in told


@pytest.mark.e2e
def test_a_plan_is_tuned_and_healed_in_one(model, mine, tmp_path, capsys, monkeypatch):
    from saccade.healing import settings

    short = partial(settings.HealingSettings, steps=2, batch=2, rank=2)
    monkeypatch.setattr(settings, "HealingSettings", short)
    out = tmp_path / "plan.json"
    words = ["--flops", "0.7", "--data", mine, *SMALL, "--heal", "--out", str(out)]
    assert main(["tune", model, *words]) == 0
    shown = capsys.readouterr().out
    healed = Plan.load(tmp_path / "plan.healed" / "plan.json")
    assert (
        healed.adapter is not None and healed.spec == Plan.load(out).spec and Plan.load(out).adapter is None
    )
    # What follows looks at both.
    both = f"--plan {out} --plan {tmp_path / 'plan.healed' / 'plan.json'}"
    assert f"next: saccade eval {model} {both} --data QUESTIONS.jsonl" in shown


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "say what is wanted"),
        (["--flops", "0.5", "--kv", "0.5"], "give one budget"),
        (["--flops", "1.5"], "less than or equal to 1"),
        (["--flops", "0.5", "--allow", "skip"], "no operation 'skip'"),
        (["--flops", "0.5", "--for", "tgi"], "no engine 'tgi'"),
        (["--flops", "0.5", "--for", "vllm", "--allow", "drop"], "vllm runs none of drop"),
        (["--flops", "0.5", "--on", "h100"], "give a share of the time"),
        (["--flops", "0.5", "--samples", "2"], "greater than or equal to 8"),
        (["--flops", "0.5", "--data", "none.jsonl"], "none.jsonl"),
        (["--flops", "0.5", "--task", "nothing"], "unknown task 'nothing'"),
        (["--flops", "0.5", "--task", "count", "--data", __file__], "give --task or --data"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_opened(words, said, tmp_path, capsys):
    out = tmp_path / "plan.json"
    assert main(["tune", "no-such/model", *words, "--out", str(out)]) == 2
    shown = capsys.readouterr().err.strip().splitlines()
    assert said in shown[-1] and "Traceback" not in shown[-1] and not list(tmp_path.iterdir())


def test_defaults_are_those_of_python():
    settings = Settings(flops=0.5)
    found = (settings.num_samples, settings.num_held_out, settings.passes)
    assert found == (tune.TUNE_SAMPLES, tune.HELD_OUT, tune.PASSES)
