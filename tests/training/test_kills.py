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
