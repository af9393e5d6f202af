"""Resuming: bit-equal to the uninterrupted run, from any checkpoint, after any end."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from saccade.cli import main
from saccade.plans.plan import Plan
from saccade.training import checkpoints, train
from support.programs import environment
from training.test_run import lines, weights
from training.tiny import settings

SCENES = 'data=[{"kind": "glance", "images": 5, "turns": 2}]'
RUNS = {
    "plain": (),
    "tower, accumulation, logging across": (
        "train_modules=[all]", "optimisation.accumulation=2", "logging_every=3"
    ),
    "lora with dropout": ("lora.rank=4", "lora.dropout=0.3"),
    "scenes on the fly, a plan": (SCENES, "model.name=glance", "plan=vskip(layers=3-6)"),
    "bf16, weights": ("optimisation.precision=bf16", "data.0.weight=1.5", "optimisation.schedule=constant"),
}  # fmt: skip
SLOW = ("bf16, weights", "lora with dropout")
STEADY = ("step", "epoch", "loss", "lr", "grad_norm", "label_tokens")


def back_to(here, step: int) -> None:
    """Leaves of the run what a kill after a checkpoint leaves."""
    run = here / "run"
    for later in checkpoints.found(run):
        if checkpoints.step_of(later) > step:
            shutil.rmtree(later)
    shutil.rmtree(run / "model")


def test_no_run_goes_on_upon_other_weights(here):
    config = settings(here, "train_modules=[projector]", "optimisation.steps=4")
    train(config)
    back_to(here, 2)
    path = here / "model" / "model.safetensors"
    before = path.read_bytes()
    other = {name: tensor * 1.5 for name, tensor in load_file(path).items()}
    save_file(other, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="began with other weights of the model"):
        train(config, resume=True)
    path.write_bytes(before)
    assert train(config, resume=True).finished


def same_run(here, other) -> None:
    want, got = weights(here, other), weights(here)
    assert want.keys() == got.keys()
    assert all(torch.equal(tensor, got[name]) for name, tensor in want.items())
    pairs = zip(lines(here, other), lines(here), strict=True)
    for line, same in pairs:
        assert {k: line[k] for k in STEADY} == {k: same[k] for k in STEADY}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.long(instead="the others")) if name in SLOW else name
        for name in RUNS
    ],
)
def test_resumed_equals_uninterrupted_bit_by_bit(here, name):
    config = settings(here, *RUNS[name])
    train(config)
    shutil.copytree(here / "run", here / "whole")
    for step in (4, 2) if name == "plain" else (2,):
        back_to(here, step)
        assert train(config, resume=True).finished
        same_run(here, "whole")


def test_a_run_from_before_there_was_a_setting_goes_on(here):
    config = settings(here, SCENES, "model.name=glance")
    train(config)
    back_to(here, 2)
    path = here / "run" / "run.json"
    told = json.loads(path.read_text())
    del told["config"]["data"][0]["scale"]
    path.write_text(json.dumps(told))
    assert train(config, resume=True).finished


def test_a_run_goes_on_from_any_of_its_checkpoints(here):
    config = settings(here, "keep=2")
    train(config)
    shutil.copytree(here / "run", here / "whole")
    assert train(config, from_step=4).finished
    same_run(here, "whole")
    with pytest.raises(ValueError, match=r"no checkpoint of step 2; those there are: 4, 6$"):
        train(config, from_step=2)
    # Stopped before its next checkpoint, it goes on from the one that was named, not from a later one.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("saccade.training.trainer.check_finite", lambda loss, step: 1 / (step != 5))
        with pytest.raises(ZeroDivisionError):
            train(config, from_step=4)
    assert [checkpoints.step_of(path) for path in checkpoints.found(here / "run")] == [4]
    assert [line["step"] for line in lines(here)] == [1, 2, 3, 4]
    assert train(config, resume=True).finished
    same_run(here, "whole")


def test_a_step_is_named_on_the_command_line(here, capsys):
    file = here / "run.yaml"
    file.write_text(yaml.safe_dump(json.loads(json.dumps(settings(here).as_data()))), "utf-8")
    assert main(["train", str(file), "--from-step", "2"]) == 2
    assert "has no checkpoint of step 2; there is none at all" in capsys.readouterr().err
    assert main(["train", str(file)]) == 0
    shutil.copytree(here / "run", here / "whole")
    assert main(["train", str(file), "--from-step", "2"]) == 0
    same_run(here, "whole")
    assert main(["train", str(file), "--from-step", "3"]) == 2
    assert "no checkpoint of step 3; those there are: 2, 4, 6" in capsys.readouterr().err


def test_how_a_global_batch_is_split_may_change(here):
    train(settings(here))
    shutil.copytree(here / "run", here / "whole")
    back_to(here, 4)
    train(settings(here, "optimisation.batch=1", "optimisation.accumulation=2", "save_every=3"), resume=True)
    for name, tensor in weights(here, "whole").items():
        torch.testing.assert_close(weights(here)[name], tensor, atol=1e-3, rtol=1e-3)


def test_a_run_goes_on_with_other_threads(here):
    """The machine that it goes on upon may have other cores."""
    train(settings(here, "threads=1", "optimisation.steps=4"))
    back_to(here, 2)
    assert train(settings(here, "threads=2", "optimisation.steps=4"), resume=True).finished


def test_a_finished_run_resumed_writes_its_model_again(here):
    train(settings(here))
    want = weights(here)
    shutil.rmtree(here / "run" / "model")
    assert train(settings(here), resume=True).finished
    assert all(torch.equal(tensor, weights(here)[name]) for name, tensor in want.items())


def test_other_settings_and_other_data_are_refused(here):
    train(settings(here))
    with pytest.raises(ValueError, match="holds a run already: pass --resume"):
        train(settings(here))
    with pytest.raises(ValueError, match=r"optimisation\.lr 0\.01, not 0\.02"):
        train(settings(here, "optimisation.lr=0.02"), resume=True)
    with pytest.raises(ValueError, match="global_batch 2, not 4"):
        train(settings(here, "optimisation.accumulation=2"), resume=True)
    with pytest.raises(ValueError, match="lora"):
        train(settings(here, "lora.rank=2"), resume=True)
    path = here / "data" / "data.json"
    path.write_text(path.read_text("utf-8").replace("the cat", "the dog"), "utf-8")
    with pytest.raises(ValueError, match="data hash"):
        train(settings(here), resume=True)


def test_a_plan_file_that_was_written_anew_is_refused(here):
    """Its name is the same, and the steps that are left would be trained under another plan."""
    plan = here / "plan.json"
    Plan.of("vskip(layers=0)").save(plan)
    config = settings(here, f"plan={plan}", "optimisation.steps=4")
    train(config)
    back_to(here, 2)
    Plan.of("ffn_skip(layers=0,1)").save(plan)
    with pytest.raises(ValueError, match=r"file's methods 'vskip\(layers=0\)', not 'ffn_skip\(layers=0-1\)'"):
        train(config, resume=True)
    run = here / "run" / "run.json"
    told = json.loads(run.read_text("utf-8"))
    Plan.of("vskip(layers=0)").save(plan)
    for noted in (told, {key: value for key, value in told.items() if "plan" not in key}):
        run.write_text(json.dumps(noted), "utf-8")
        assert train(config, resume=True).finished


def test_resuming_what_never_began_begins(here):
    assert train(settings(here), resume=True).finished


def test_a_checkpoint_of_another_model_is_refused(here, tmp_path):
    checkpoints.save_weights(tmp_path, {"a": torch.zeros(2), "b": torch.ones(3)})
    into = {"a": torch.ones(2), "b": torch.zeros(3)}
    checkpoints.load_weights(tmp_path, into)
    assert torch.equal(into["a"], torch.zeros(2)) and torch.equal(into["b"], torch.ones(3))
    for other in ({"a": into["a"]}, {**into, "c": into["a"]}, {**into, "a": torch.ones(4)}):
        with pytest.raises(ValueError, match="of another model"):
            checkpoints.load_weights(tmp_path, other)


@contextmanager
def little_room(size: int):
    """No file of this process can grow beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_named_and_the_last_checkpoint_kept(here):
    config = settings(here)
    train(config)
    shutil.copytree(here / "run", here / "whole")
    back_to(here, 4)
    with little_room(100_000), pytest.raises(ValueError) as caught:
        train(config, resume=True)
    assert "cannot write the checkpoint of step 6" in str(caught.value)
    assert "the last checkpoint is" in str(caught.value) and "checkpoint-4" in str(caught.value)
    assert [checkpoints.step_of(p) for p in checkpoints.found(here / "run")] == [2, 4]
    assert not [p for p in (here / "run" / "checkpoints").iterdir() if p.name.endswith(".part")]
    train(config, resume=True)
    same_run(here, "whole")


def test_no_room_for_the_model_keeps_the_run(here):
    config = settings(here)
    train(config)
    shutil.rmtree(here / "run" / "model")
    with little_room(100_000), pytest.raises(ValueError, match="cannot write the model"):
        train(config, resume=True)
    assert not (here / "run" / "model").exists() and len(checkpoints.found(here / "run")) == 3
    assert train(config, resume=True).finished and (here / "run" / "model").is_dir()


@pytest.mark.long(instead="training/test_kills.py")
@pytest.mark.e2e
def test_a_killed_run_resumes(here):
    """SIGKILL at any moment: what stands is whole, and the end is that of the uninterrupted run."""
    change = ["optimisation.steps=40", "save_every=2", "logging_every=2"]
    config = settings(here, *change)
    code = (
        "import json, sys; from saccade.training import train, TrainingConfig;"
        "train(TrainingConfig.from_data(json.loads(sys.argv[1])), resume=True)"
    )
    child = subprocess.Popen([sys.executable, "-c", code, json.dumps(config.as_data())], env=environment())
    try:
        end = time.monotonic() + 120
        while len(checkpoints.found(here / "run")) < 2 and time.monotonic() < end and child.poll() is None:
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
    finally:
        child.kill()
        child.wait()
    found = checkpoints.found(here / "run")
    assert len(found) >= 2 and not (here / "run" / "model").exists()
    reached = checkpoints.step_of(found[-1])
    assert reached < 40
    # The same run, ended after the kill, against one that never was interrupted.
    assert train(config, resume=True).finished
    shutil.move(here / "run", here / "whole")
    train(config)
    same_run(here, "whole")
