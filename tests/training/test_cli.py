"""``saccade train CONFIG.yaml``: errors in one line, JSON on request, the next command at the end."""

from __future__ import annotations

import json

import pytest
import yaml

from saccade import models
from training.tiny import settings


@pytest.fixture
def config(here):
    """The run of six steps as a YAML file."""
    path = here / "tiny.yaml"
    path.write_text(yaml.safe_dump(json.loads(json.dumps(settings(here).as_data()))), "utf-8")
    return path


def test_a_run_says_what_it_wrote_and_what_to_do_next(command, config, here):
    code, out, err = command("train", config)
    run = here / "run"
    assert code == 0 and "trained" in out and f"next: saccade eval {run / 'model'}" in out
    # The questions of a training file are not questions to judge on: the next command says whose are wanted.
    judged = "--data QUESTIONS.jsonl" in out
    assert judged == any(source.kind != "glance" for source in settings(here).data)
    assert "step 6 of 6" in err and "%|" not in err  # no bars but ours
    models.load(str(run / "model"))


def test_options_may_stand_before_the_file(command, config, here):
    other, data = here / "other", here / "result.json"
    words = ("--run", other, "--set", "optimisation.steps=2", "--set", "save_every=1", "--json", data, config)
    code, out, _ = command("train", *words)
    report = json.loads(data.read_text("utf-8"))
    assert (
        code == 0 and report["steps"] == 2 and report["finished"] and report["model"] == str(other / "model")
    )
    assert report["config"]["optimisation"]["steps"] == 2 and not (here / "run").exists()
    code, out, _ = command("train", config, "--resume", "--json", "-", *words[:6])
    assert code == 0 and json.loads(out)["final"]["step"] == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("none.yaml",), "no such file: none.yaml"),
        (("--set", "optimisation.stepz=1"), "unknown key optimisation.stepz"),
        (("--set", "model.name=nowhere"), "no model 'nowhere'"),
        (("--set", "plan=vskip(layers=99)"), "99"),
        (("--set", "data.0.file=none.json"), "no such file: none.json"),
        (("--run", "FILE"), "is not a folder"),
        (("--set", "model.skip_vision={colour: red}"), "colour"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(command, config, here, words, said):
    (here / "FILE").write_text("", "utf-8")
    words = [str(here / "FILE") if word == "FILE" else word for word in words]
    first = () if words[0].endswith(".yaml") else (config,)
    code, out, err = command("train", *first, *words)
    last = err.strip().splitlines()[-1]
    assert code == 2 and not out and last.startswith("saccade: error: ") and said in last
    assert not (here / "run" / "model").exists()


def test_a_run_of_one_kind_is_no_place_for_the_other(command, config, here):
    folder = here / "other"
    folder.mkdir()
    (folder / "run.json").write_text("{}", "utf-8")
    code, _, err = command("train", "glance", "--steps", "1", "--run", folder)
    assert code == 2 and "holds a run of 'saccade train CONFIG.yaml'" in err
    (folder / "run.json").rename(folder / "metrics.jsonl")
    code, _, err = command("train", config, "--run", folder)
    assert code == 2 and "holds the files of another run" in err
    assert [path.name for path in folder.iterdir()] == ["metrics.jsonl"]


def test_help_knows_both_kinds(command):
    code, out, _ = command("train")
    assert code == 0 and "CONFIG.yaml" in out and "glance" in out
    code, again, _ = command("train", "--help")
    assert code == 0 and again == out
    code, out, _ = command("train", "run", "--help")
    assert code == 0 and "--set" in out and "--resume" in out
    code, out, _ = command("train", "glance", "--help")
    assert code == 0 and "--minutes" in out


def test_the_smoke_configuration_as_a_program(program, root, tmp_path):
    """Cut to two steps here; resumed as the interrupted run says."""
    words = ["train", str(root / "configs" / "smoke.yaml"), "--run", str(tmp_path / "smoke")]
    words += ["--set", "optimisation.steps=2", "--set", "optimisation.batch=2", "--set", "save_every=1"]
    done = program(*words)
    assert done.code == 0, done.err
    assert "next: saccade eval" in done.out
    lines = [line for line in done.err.splitlines() if line.strip()]
    assert lines and all(line.startswith("step ") for line in lines), done.err
    assert sorted(p.name for p in (tmp_path / "smoke").iterdir()) == [
        "checkpoints", "loss.png", "metrics.jsonl", "model", "run.json",
    ]  # fmt: skip
