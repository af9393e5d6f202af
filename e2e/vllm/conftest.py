"""Folders and answers of transformers, made once; the table of what held is written where it is asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from e2e.vllm.support import FAMILIES, Reference, environment, write

from saccade.system.files import write_json

environment()


def pytest_addoption(parser):
    parser.addoption("--record", default="", help="write what was found equal to this file")


@pytest.fixture(scope="session")
def references(tmp_path_factory):
    """transformers' answers by family; a family is written and asked when it is needed."""
    made: dict[str, Reference] = {}

    def of(family: str) -> Reference:
        assert family in FAMILIES
        if family not in made:
            made[family] = Reference(write(tmp_path_factory.mktemp("hub") / family, family))
        return made[family]

    return of


@pytest.fixture(scope="session")
def note(request):
    """Notes what was found of the plans of a family and setting, beside what the file holds already."""

    def add(family: str, setting: str, found: dict[str, str]) -> None:
        where = request.config.getoption("--record")
        if not where:
            return
        path = Path(where)
        rows = json.loads(path.read_text("utf-8"))["rows"] if path.exists() else {}
        rows.setdefault(family, {})[setting] = found
        write_json(path, {**_provenance(), "rows": rows})

    return add


def _provenance() -> dict:
    import platform

    import torch
    import transformers
    from vllm.version import __version__

    from saccade._version import __version__ as ours

    versions = {"saccade": ours, "vllm": __version__, "torch": torch.__version__}
    versions |= {"transformers": transformers.__version__, "python": platform.python_version()}
    return {
        "kind": "vllm_exactness",
        "command": "make vllm",
        "device": "cpu",
        "dtype": "float32",
        "versions": versions,
    }
