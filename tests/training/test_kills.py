"""A training that ends at any moment resumes to the weights and metrics of one that never ended."""

from __future__ import annotations

import random
import shutil

import pytest

from saccade.training import checkpoints, train
from support import kills
from training.test_resume import same_run
from training.tiny import settings

KILLS = 20


def stop() -> None:
    raise kills.Killed


@pytest.mark.e2e
def test_a_run_that_is_ended_again_and_again_ends_as_one_that_never_was(here):
    config, rng = settings(here, "save_every=1"), random.Random(0)
    train(config)
    shutil.move(here / "run", here / "whole")
    killed = 0
    while killed < KILLS:
        try:
            with kills.at(rng.randrange(1, 40), stop):
                train(config, resume=True)
        except kills.Killed:
            killed += 1
        else:
            same_run(here, "whole")
            shutil.rmtree(here / "run")
        assert not (here / "run" / ".lock").exists()
    assert train(config, resume=True).finished
    same_run(here, "whole")
    assert not kills.left_over(here / "run")


def test_a_checkpoint_whose_place_was_just_made_free_comes_back(here):
    """A kill between the two moves by which it replaces one of the same step."""
    config = settings(here)
    train(config)
    shutil.copytree(here / "run", here / "whole")
    folder = here / "run" / "checkpoints"
    scrap = folder / ".7.part"
    scrap.mkdir()
    shutil.copytree(folder / "checkpoint-6", scrap / "checkpoint-6")
    (folder / "checkpoint-6").rename(scrap / checkpoints.BEFORE)
    (folder / ".8.part" / "checkpoint-6").mkdir(parents=True)  # never came so far: it may be half of one
    shutil.rmtree(here / "run" / "model")
    checkpoints.recover(here / "run")
    assert [checkpoints.step_of(path) for path in checkpoints.found(here / "run")] == [2, 4, 6]
    checkpoints.check(folder / "checkpoint-6", sharded=False)
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]
    assert train(config, resume=True).finished
    same_run(here, "whole")


@pytest.mark.parametrize("what", ["older ones", "later ones"])
def test_an_end_while_checkpoints_are_deleted_leaves_whole_ones(here, monkeypatch, what):
    """Of each a file is gone when the deletion ends: none of it is offered to go on from."""
    folder = here / "run" / "checkpoints"
    for step in (2, 4, 6, 8):
        (folder / f"checkpoint-{step}").mkdir(parents=True)
        (folder / f"checkpoint-{step}" / "optimizer.pt").write_bytes(b"state")

    def torn(path, *_, **__):
        (path / "optimizer.pt").unlink()
        raise kills.Killed

    monkeypatch.setattr(checkpoints.shutil, "rmtree", torn)
    with pytest.raises(kills.Killed):
        if what == "older ones":
            checkpoints.tidy(here / "run", keep=2)
        else:
            checkpoints.forget_after(here / "run", 4)
    monkeypatch.undo()
    left = [4, 6, 8] if what == "older ones" else [2, 4, 6]
    assert [checkpoints.step_of(path) for path in checkpoints.found(here / "run")] == left
    assert all((path / "optimizer.pt").exists() for path in checkpoints.found(here / "run"))
    checkpoints.recover(here / "run")
    assert sorted(path.name for path in folder.iterdir()) == [f"checkpoint-{step}" for step in left]


def test_metrics_that_cannot_be_written_are_named_and_the_checkpoint_is_kept(here, monkeypatch):
    config = settings(here, "save_every=1")
    from saccade.training import meter

    written: list[str] = []

    class Full:
        """A file on a full disk, from the fourth line on."""

        def __init__(self, stream) -> None:
            self.stream = stream

        def __enter__(self):
            return self

        def __exit__(self, *_) -> None:
            self.stream.close()

        def write(self, text: str) -> None:
            written.append(text)
            if len(written) > 3:
                raise OSError(28, "No space left on device")
            self.stream.write(text)

    opened = meter.Path.open

    def open_full(path, mode="r", *args, **kwargs):
        stream = opened(path, mode, *args, **kwargs)
        return Full(stream) if path.name == "metrics.jsonl" and mode == "a" else stream

    monkeypatch.setattr(meter.Path, "open", open_full)
    with pytest.raises(OSError, match="No space left") as caught:
        train(config)
    assert caught.value.filename == str(here / "run" / "metrics.jsonl")
    monkeypatch.undo()
    assert [checkpoints.step_of(path) for path in checkpoints.found(here / "run")] == [1, 2, 3]
    shutil.move(here / "run", here / "stopped")
    monkeypatch.setattr("saccade.training.run.loss_curve", lambda history, title: b"")
    train(config)
    shutil.move(here / "run", here / "whole")
    shutil.move(here / "stopped", here / "run")
    assert train(config, resume=True).finished
    same_run(here, "whole")
