"""Runs of the real lmms-eval, in the environment that ``make lmms`` builds; no network."""

from __future__ import annotations

import os

# Before datasets is imported, here and in the programs that tests start.
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch

from saccade import glance, models

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Data sets of tests are not left in the user's cache."""
    os.environ["HF_DATASETS_CACHE"] = str(tmp_path_factory.mktemp("datasets"))


@pytest.fixture(scope="session")
def loaded() -> models.Loaded:
    """Glance, without anything of lmms-eval."""
    return models.wrap(*glance.load(), "glance")
