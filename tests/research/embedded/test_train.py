"""Training: repeatable, resumable, and never leaving a half-written file."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from saccade.glance.model import GlanceConfig
from saccade.research.embedded import checkpoint
from saccade.research.embedded.checkpoint import export, load_state
from saccade.research.embedded.data import Batches, Mixture, attention_mask
from saccade.research.embedded.recipe import Clock, TrainConfig, TrainingStage, learning_rate_factor
from saccade.research.embedded.train import Trainer, train
from support import kills
from support.programs import environment

SIZES = GlanceConfig(layers=2, width=32, heads=4, mlp=16, vision_width=16)
CONFIG = TrainConfig(
    steps=8,
    stages=(TrainingStage("see", until=0.5), TrainingStage("answer")),
    warmup=2,
    bf16=False,
    read_layers=(1, 2),
    point_layers=(1, 2),
    mixture=Mixture(batch=4, text=32),
    check_every=0.0,
    glimpse_steps=40,
    workers=0,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of both stages."""
    folder = tmp_path_factory.mktemp("run")
    train(CONFIG, folder, sizes=SIZES)
    return folder


def test_a_run_goes_through_both_stages_and_changes_the_weights(run) -> None:
    state = load_state(run)
    assert state["clock"]["step"] == 8
    assert state["clock"]["stage_step"] == 4  # stage 2 began anew
    fresh = Trainer(CONFIG, SIZES, run).network.state_dict()
    moved = [name for name, w in state["network"].items() if not torch.equal(w, fresh[name])]
    assert any("layers.1.mlp" in name for name in moved)
    towers = {name.split("encoder.layers.0.")[1] for name in moved if "vision_tower.encoder" in name}
    # The tower's layer learns where to look and nothing else: its output stays what enters it.
    assert towers and all(name.startswith(("self_attn.q", "self_attn.k", "layer_norm1")) for name in towers)


@pytest.mark.parametrize("after", [2, 4, 6])
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(run, tmp_path, monkeypatch, after) -> None:
    step = Trainer.step

    def stop_after(self, batch):
        losses = step(self, batch)
        self.stopping = self.clock.step == after
        return losses

    monkeypatch.setattr(Trainer, "step", stop_after)
    with pytest.raises(SystemExit, match="--resume"):
        train(CONFIG, tmp_path, sizes=SIZES)
    assert load_state(tmp_path)["clock"]["step"] == after
    monkeypatch.setattr(Trainer, "step", step)
    train(CONFIG, tmp_path, resume=True, sizes=SIZES)
    whole, parts = load_state(run), load_state(tmp_path)
    for key in ("network", "average"):
        assert all(torch.equal(w, parts[key][name]) for name, w in whole[key].items())


def test_shards_learn_what_one_thread_learns(run, tmp_path) -> None:
    train(replace(CONFIG, threads=1, steps=1), tmp_path / "one", sizes=SIZES)
    train(replace(CONFIG, threads=2, steps=1), tmp_path / "two", sizes=SIZES)
    one, two = (load_state(tmp_path / name)["clock"] for name in ("one", "two"))
    assert one["images"] == two["images"] == 4


def test_pauses_do_not_count_as_training_time(run) -> None:
    trainer = Trainer(CONFIG, SIZES, run)
    for _ in range(10):
        trainer._tick(1.0, 4)
    trainer._tick(3600.0, 4)
    assert trainer.clock.spent == pytest.approx(15.0)


def test_the_learning_rate_rises_stays_and_falls() -> None:
    config = TrainConfig(steps=100, warmup=10, decay_from=0.5)
    factor = [learning_rate_factor(config, Clock(step=s, stage_step=s)) for s in range(101)]
    assert factor[0] == pytest.approx(0.1)
    assert factor[10] == factor[49] == 1.0
    assert factor[75] == pytest.approx(0.5)
    assert factor[100] == pytest.approx(0.01)


def test_folders_are_not_mixed_up(run, tmp_path) -> None:
    with pytest.raises(ValueError, match="--resume"):
        train(CONFIG, run, sizes=SIZES)
    with pytest.raises(ValueError, match="no checkpoint"):
        train(CONFIG, tmp_path, resume=True, sizes=SIZES)


def test_an_interrupted_checkpoint_leaves_the_former_one(run, monkeypatch) -> None:
    before = (run / checkpoint.CHECKPOINT).read_bytes()

    def fail(state, path):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save_state(run, {})
    assert (run / checkpoint.CHECKPOINT).read_bytes() == before


def test_an_export_is_whole_or_not_there(run, tmp_path, monkeypatch) -> None:
    out = tmp_path / "weights"
    export(run, out)
    assert json.loads((out / "config.json").read_text())["architectures"] == ["LlavaForConditionalGeneration"]
    before = {file.name: file.read_bytes() for file in out.iterdir()}

    def fail(*_args, **_kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        export(run, out)
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    assert os.listdir(tmp_path) == ["weights"]
    monkeypatch.undo()
    export(run, out)
    assert os.listdir(tmp_path) == ["weights"]


def test_export_takes_the_averaged_weights_in_half_precision(run, tmp_path) -> None:
    from safetensors.torch import load_file

    tensors = load_file(export(run, tmp_path / "w") / "model.safetensors")
    assert {t.dtype for t in tensors.values()} == {torch.float16}
    average = load_state(run)["average"]["model.lm_head.weight"].half()
    assert any(t.shape == average.shape and torch.equal(t, average) for t in tensors.values())


def test_batches_depend_on_seed_and_number_only() -> None:
    batches = Batches(CONFIG.mixture, 0, "train")
    first, again, other = batches[3], batches[3], batches[4]
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not torch.equal(first["pixels"], other["pixels"])


def test_questions_of_a_row_do_not_see_each_other() -> None:
    mask = attention_mask(torch.tensor([[0, 0, 1, 1, -1]]), prefix=2)[0, 0] == 0
    assert mask.shape == (5, 7) and mask[:, :2].all()
    assert mask[1, 2] and not mask[0, 3]
    assert not mask[2:4, 2:4].any()
    assert not mask[4, 2:6].any()


def same(one, other) -> bool:
    """Whether two runs ended with the same weights."""
    states = [load_state(folder) for folder in (one, other)]
    return all(
        torch.equal(weight, states[1][key][name])
        for key in ("network", "average")
        for name, weight in states[0][key].items()
    )


def stop() -> None:
    raise kills.Killed


def test_a_run_that_is_ended_again_and_again_ends_as_one_that_never_was(run, tmp_path) -> None:
    config, rng, killed, folder = replace(CONFIG, save_every=0.0), random.Random(0), 0, tmp_path / "run"
    while killed < 20:
        resume = (folder / checkpoint.CHECKPOINT).exists()
        try:
            with kills.at(rng.randrange(1, 9), stop):
                train(config, folder, resume, sizes=SIZES)
        except kills.Killed:
            killed += 1
        else:
            assert same(run, folder)
            shutil.rmtree(folder)
        assert not kills.left_over(tmp_path)
    train(config, folder, (folder / checkpoint.CHECKPOINT).exists(), sizes=SIZES)
    assert same(run, folder)


def until_saved(child: subprocess.Popen, folder: Path) -> None:
    """Waits for the first checkpoint of a run in another process."""
    limit = time.monotonic() + 120
    while not (folder / checkpoint.CHECKPOINT).exists() and time.monotonic() < limit:
        assert child.poll() is None
        time.sleep(0.002)
    assert (folder / checkpoint.CHECKPOINT).exists()


@pytest.mark.long(instead="test_a_run_that_is_ended_again_and_again_ends_as_one_that_never_was")
@pytest.mark.e2e
def test_a_real_kill(run, tmp_path) -> None:
    code = (
        "import sys; from pathlib import Path; from dataclasses import replace;"
        "from research.embedded.test_train import CONFIG, SIZES;"
        "from saccade.research.embedded.train import train;"
        "train(replace(CONFIG, save_every=0.0), Path(sys.argv[1]), sizes=SIZES)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], env=environment(Path(__file__).parents[2])
    )
    try:
        until_saved(child, tmp_path)
    finally:
        child.kill()
        child.wait()
    assert load_state(tmp_path)["clock"]["step"] < 8
    train(CONFIG, tmp_path, resume=True, sizes=SIZES)
    assert same(run, tmp_path)


@pytest.mark.e2e
def test_a_polite_kill_of_the_whole_group_saves_first(tmp_path) -> None:
    code = (
        "import sys; from pathlib import Path; from dataclasses import replace;"
        "from research.embedded.test_train import CONFIG, SIZES;"
        "from saccade.research.embedded.train import train;"
        "config = replace(CONFIG, steps=5000, workers=1, save_every=0.0);"
        "train(config, Path(sys.argv[1]), sizes=SIZES)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        env=environment(Path(__file__).parents[2]),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        until_saved(child, tmp_path)
        os.killpg(child.pid, signal.SIGTERM)
        told = child.communicate(timeout=60)[1]
    finally:
        child.kill()
    saved = load_state(tmp_path)["clock"]["step"]
    assert f"saved at step {saved}; continue with --resume" in told and "Traceback" not in told


def test_metrics_say_first_what_made_them(run) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    first = lines[0]["provenance"]
    assert first["device"] and first["versions"]["torch"] and first["seed"] == CONFIG.seed
    assert sum("provenance" in line for line in lines) == 1


def test_metrics_of_steps_that_come_again_are_dropped(run, tmp_path) -> None:
    train(replace(CONFIG, steps=2), tmp_path, sizes=SIZES)
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text('{"step": 1, "loss": 3}\n{"step": 7, "loss": 2}\n{"step": 2, "lo')
    Trainer(CONFIG, SIZES, tmp_path).load()
    assert metrics.read_text() == '{"step": 1, "loss": 3}\n'


def test_a_full_disk_is_one_line_and_the_former_checkpoint_is_kept(run, monkeypatch) -> None:
    before = (run / checkpoint.CHECKPOINT).read_bytes()

    def full(state, path):
        path.write_bytes(b"half")
        raise RuntimeError("PytorchStreamWriter failed\nwriting file data/3: file write failed")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(
        ValueError, match=r"^cannot write .*checkpoint\.pt: .*; the former checkpoint is kept"
    ):
        checkpoint.save_state(run, {})
    assert (run / checkpoint.CHECKPOINT).read_bytes() == before and not kills.left_over(run)
