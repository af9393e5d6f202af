"""What every test shares: no network, a fixed seed, few threads, tiny models built once, the command line."""

from __future__ import annotations

import gc
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

from saccade.cli import main
from saccade.inputs.samples import Sample
from saccade.models import Loaded
from support import models, shares
from support.asking import answered
from support.programs import ROOT, Result, start
from support.toy import build_toy, save_toy

torch.set_num_threads(1)

# Property tests draw the same examples every time, and a busy machine does not fail them.
settings.register_profile("steady", deadline=None, derandomize=True, database=None)
settings.load_profile("steady")


WATCH = shares.Watch()
# Early releases of transformers have no such model.
collect_ignore = [] if "molmo2" in models.FACTORIES else ["families/test_molmo2.py"]


def pytest_addoption(parser):
    parser.addoption(
        "--whole", action="store_true", help="every case of the tables that run a share, and long tests"
    )
    parser.addoption("--quick", action="store_true", help="a few tests of every file, all of edited ones")


def pytest_configure(config):
    WATCH.install()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    shares.mark_starters(items)
    quick = config.getoption("quick")
    edited = shares.edited_tests(ROOT) if quick else frozenset()
    kept, left = shares.choose(items, config.getoption("whole"), quick, edited)
    # A case that is asked for by name runs.
    if left and (kept or quick):
        config.hook.pytest_deselected(items=left)
        items[:] = kept


def pytest_collection_finish(session):
    # Modules and tests stay: collecting garbage (training does so for every run) need not walk over them.
    gc.collect()
    gc.freeze()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item, nextitem):
    WATCH.item = item
    yield
    WATCH.item = None


def pytest_terminal_summary(terminalreporter):
    ran = [report for report in terminalreporter.getreports("passed") if report.when == "call"]
    failed = [report for report in terminalreporter.getreports("failed") if report.when == "call"]
    if ran or failed:
        terminalreporter.write_line(shares.counted([*ran, *failed]))


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


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory) -> Path:
    """A model folder with a random Glance of four small layers; leave it as you found it."""
    return save_toy(tmp_path_factory.mktemp("toy-glance"))


@pytest.fixture
def command(capsys):
    """Runs the command line in this process."""

    def run(*words: object) -> Result:
        code = main([str(word) for word in words])
        caught = capsys.readouterr()
        return Result(code, caught.out, caught.err)

    return run


@pytest.fixture
def program():
    """Runs ``python -m saccade`` as a program."""

    def run(*words: object, cwd=ROOT) -> Result:
        return start("-m", "saccade", *words, cwd=cwd).ended()

    return run


@pytest.fixture(scope="session")
def toy() -> Loaded:
    """A random Glance of four small layers; leave it as you found it."""
    return build_toy()


@pytest.fixture(scope="session")
def questions(toy) -> list[Sample]:
    """Twelve questions of three tasks, with the toy's own answers."""
    return answered(toy)
