"""A tiny model and a little data set in a folder, made once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from saccade.training import run
from training.tiny import data_set, model_folder


@pytest.fixture(scope="session")
def _made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    model_folder(folder / "model")
    data_set(folder / "data")
    return folder


@pytest.fixture(autouse=True)
def _no_curve(monkeypatch) -> None:
    """Drawing takes longer than a tiny run; one test draws."""
    monkeypatch.setattr(run, "loss_curve", lambda history, title: b"")


@pytest.fixture
def here(_made, tmp_path) -> Path:
    """A folder of the test's own that holds ``model/`` and ``data/data.json``."""
    shutil.copytree(_made, tmp_path / "here")
    return tmp_path / "here"
