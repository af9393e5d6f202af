"""Damaged runs: every file that is torn, missing or something else ends in one line that names it."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from saccade.training import checkpoints, train
from saccade.training.config import TrainingConfig
from training.test_resume import back_to
from training.tiny import data_set, model_folder, settings

FILES = (
    "weights.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json",
    "0-meter.json",
)  # fmt: skip


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that was killed after the fourth of six steps, and its configuration."""
    here = tmp_path_factory.mktemp("stopped")
    model_folder(here / "model")
    data_set(here / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("saccade.training.run.loss_curve", lambda history, title: b"")
        train(settings(here))
    back_to(here, 4)
    return here


@pytest.fixture
def run(stopped, tmp_path):
    """A copy of it: its folder, and how it goes on."""
    shutil.copytree(stopped / "run", tmp_path / "run")
    config = settings(stopped, f"out={tmp_path / 'run'}")
    return tmp_path / "run", config


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["missing", "torn", "empty"])
def test_a_damaged_checkpoint_is_named(run, name, how):
    folder, config = run
    last = checkpoints.found(folder)[-1]
    path = last / name
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if how == "torn" else b"")
    with pytest.raises(ValueError) as caught:
        train(config, resume=True)
    said = str(caught.value)
    assert f"the checkpoint {last} is damaged" in said and "delete it and --resume" in said
    if how == "missing":
        assert f"{name} is missing" in said


def test_without_a_damaged_checkpoint_the_one_before_goes_on(run):
    folder, config = run
    last = checkpoints.found(folder)[-1]
    (last / "optimizer.pt").unlink()
    with pytest.raises(ValueError, match="damaged"):
        train(config, resume=True)
    shutil.rmtree(last)
    assert train(config, resume=True).finished


@pytest.mark.parametrize("text", ["{}", "[]", '{"tally": {"hats": 1}, "refused": {}, "learnt": true}'])
def test_a_meter_of_another_kind_is_damage(run, text):
    folder, config = run
    (checkpoints.found(folder)[-1] / "0-meter.json").write_text(text, "utf-8")
    with pytest.raises(ValueError, match=r"the checkpoint .*checkpoint-4 is damaged"):
        train(config, resume=True)


def test_an_optimizer_of_another_model_is_damage(run):
    folder, config = run
    path = checkpoints.found(folder)[-1] / "optimizer.pt"
    state = torch.load(path, weights_only=True)
    state["param_groups"] = state["param_groups"][:1]
    torch.save(state, path)
    with pytest.raises(ValueError, match="is damaged"):
        train(config, resume=True)


def test_files_of_a_process_that_is_missing_are_named(run):
    folder, _ = run
    last = checkpoints.found(folder)[-1]
    shutil.move(last / "rng_state.pth", last / "rng_state_0.pth")
    shutil.copy(last / "0-meter.json", last / "1-meter.json")
    with pytest.raises(ValueError, match=r"rng_state_1\.pth is missing"):
        checkpoints.check(last, sharded=False)
    shutil.copy(last / "rng_state_0.pth", last / "rng_state_1.pth")
    checkpoints.check(last, sharded=False)
    (last / "1-meter.json").unlink()
    with pytest.raises(ValueError, match=r"1-meter\.json is missing"):
        checkpoints.check(last, sharded=False)
    (last / "weights.safetensors").unlink()
    shutil.copy(last / "0-meter.json", last / "1-meter.json")
    checkpoints.check(last, sharded=True)


@pytest.mark.parametrize("text", ["{}", "[]", "{", '{"config": {}}', '{"config": {"optimisation": {}}}'])
def test_a_damaged_run_file_is_named(run, text):
    folder, config = run
    (folder / "run.json").write_text(text, "utf-8")
    with pytest.raises(ValueError, match=r"run\.json is (damaged|not JSON)"):
        train(config, resume=True)


def test_a_run_file_that_is_missing_is_named(run):
    folder, config = run
    (folder / "run.json").unlink()
    with pytest.raises(ValueError, match=r"holds checkpoints, but run\.json, .* is missing"):
        train(config, resume=True)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'\xff\xfe{"a":1}\n', "is not UTF-8 text"),
        (b'{"x": 2}\n', "line 1 is damaged"),
        (b"{\n[]\n", "line 1 is damaged"),
    ],
)
def test_damaged_metrics_are_named(run, content, said):
    folder, config = run
    (folder / "metrics.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match=rf"metrics\.jsonl.*{said}"):
        train(config, resume=True)
    assert (folder / "metrics.jsonl").read_bytes() == content


def test_a_torn_last_line_of_metrics_is_written_again_and_none_at_all_is_no_reason_to_stop(run):
    folder, config = run
    path = folder / "metrics.jsonl"
    whole = path.read_text("utf-8").splitlines(keepends=True)
    path.write_text("".join(whole[:4]) + whole[4][:20], "utf-8")
    assert train(config, resume=True).finished
    assert [json.loads(line)["step"] for line in path.read_text("utf-8").splitlines()] == [1, 2, 3, 4, 5, 6]
    shutil.rmtree(folder / "model")
    path.unlink()
    outcome = train(config, resume=True)
    assert outcome.finished and outcome.report["final"] is None


def test_a_folder_of_another_kind_of_run_is_left_alone(stopped, tmp_path):
    """Such as one of ``train glance``, whose metrics have the same name."""
    (tmp_path / "metrics.jsonl").write_text('{"accuracy": 0.5}\n', "utf-8")
    for resume in (False, True):
        with pytest.raises(ValueError, match="holds the files of another run"):
            train(settings(stopped, f"out={tmp_path}"), resume=resume)
    assert (tmp_path / "metrics.jsonl").read_text("utf-8") == '{"accuracy": 0.5}\n'
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_run_needs_a_folder(stopped):
    data = settings(stopped).as_data()
    with pytest.raises(ValueError, match="out: the run needs the name of a folder"):
        TrainingConfig.from_data(data | {"out": ""})
