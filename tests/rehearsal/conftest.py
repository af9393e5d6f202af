"""Folders of the checkpoints, each built once a run whatever the number of workers."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rehearsal import layout, scene
from rehearsal.checkpoint import Checkpoint
from saccade.system.files import locked


@pytest.fixture(scope="session")
def stage(tmp_path_factory) -> Path:
    """A folder that the workers of one run share."""
    own = tmp_path_factory.getbasetemp()
    base = own.parent if own.name.startswith("popen-") else own
    return base / "rehearsal"


@pytest.fixture(scope="session")
def hub_folder(stage) -> Callable[[Checkpoint], Path]:
    """Builds a checkpoint's folder, with a small tokenizer of ours, or waits for the worker that does."""

    def folder(checkpoint: Checkpoint) -> Path:
        path = stage / checkpoint.short
        while not path.exists():
            with locked(stage / f"{checkpoint.short}.lock") as mine:
                if mine and not path.exists():
                    layout.build(checkpoint, path)
            time.sleep(0.05)
        return path

    return folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> scene.Scene:
    """Pictures, questions and conversations."""
    return scene.make(tmp_path_factory.mktemp("scene"))
