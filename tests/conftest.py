"""What every test shares: no network, a fixed seed, few threads, and tiny models built once."""

from __future__ import annotations

import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["MPLBACKEND"] = "agg"
# Tiny models lose time to more threads, here and in the commands that tests start.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch
from hypothesis import settings

from support import models

ROOT = Path(__file__).resolve().parent.parent

torch.set_num_threads(1)

# Property tests draw the same examples every time, and a busy machine does not fail them.
settings.register_profile("steady", deadline=None, derandomize=True, database=None)
settings.load_profile("steady")


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's folder."""
    return ROOT


@pytest.fixture(scope="session")
def llava() -> models.Tiny:
    """A tiny LLaVA-1.5; leave it as you found it."""
    return models.tiny_llava()


@pytest.fixture(scope="session")
def llava_next() -> models.Tiny:
    """A tiny LLaVA-NeXT; leave it as you found it."""
    return models.tiny_llava_next()


@pytest.fixture(scope="session")
def qwen() -> models.Tiny:
    """A tiny Qwen2.5-VL; leave it as you found it."""
    return models.tiny_qwen()


@pytest.fixture(scope="session", params=["llava", "llava_next", "qwen"])
def tiny(request: pytest.FixtureRequest) -> models.Tiny:
    """Each tiny family in turn; leave it as you found it."""
    return request.getfixturevalue(request.param)
