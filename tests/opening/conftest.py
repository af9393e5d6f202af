"""A folder of a tiny model as it lies on the hub, written once; tests that damage it take a copy."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from support import folders


@pytest.fixture(scope="session")
def whole(tmp_path_factory) -> Path:
    return folders.write(tmp_path_factory.mktemp("hub") / "llava", "llava-llama")


@pytest.fixture
def copy(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "model"))
