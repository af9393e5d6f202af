"""Running the command line inside the test process, and once in a while as a program."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import pytest

from saccade.cli import main
from saccade.measure import target
from saccade.shapes import SHAPES, ModelShape
from support.models import FACTORIES

TOY = ModelShape("toy", 6, 64, 4, 2, 16, 128, 256, 24)


@dataclass(frozen=True)
class Result:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as JSON: all of it."""
        return json.loads(self.out)


@pytest.fixture
def command(capsys):
    """Runs the command line in this process."""

    def run(*words: object) -> Result:
        code = main([str(word) for word in words])
        caught = capsys.readouterr()
        return Result(code, caught.out, caught.err)

    return run


@pytest.fixture
def program(root):
    """Runs ``python -m saccade`` as a program."""

    def run(*words: object, cwd=None) -> Result:
        path = os.pathsep.join([str(root / "src"), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            [sys.executable, "-m", "saccade", *map(str, words)],
            capture_output=True,
            text=True,
            timeout=240,
            cwd=cwd or root,
            env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        )
        return Result(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def toy(monkeypatch) -> str:
    """A preset shape small enough to be built in a test."""
    monkeypatch.setitem(SHAPES, TOY.name, TOY)
    monkeypatch.setitem(target.FAMILY_OF, TOY.name, "llava")
    return TOY.name


@pytest.fixture
def asked(monkeypatch):
    """A tiny model that ``generate`` takes for a loaded one, with a processor that speaks in numbers."""
    from transformers import BatchFeature

    from saccade import models

    tiny = FACTORIES["llava-llama"](layers=4)

    def load(name, dtype=None, device=None):
        return models.wrap(tiny.model, None, name)

    def inputs(loaded, samples, plan=None):
        segments = [[3, *((24, 24) for _ in sample.images), 5] for sample in samples]
        return BatchFeature(tiny.batch(segments))

    def answers(loaded, output_ids, prompt_rows):
        return [" ".join(map(str, row)) for row in output_ids[:, prompt_rows:].tolist()]

    monkeypatch.setattr(models, "load", load)
    monkeypatch.setattr(models, "inputs", inputs)
    monkeypatch.setattr(models, "answers", answers)
    return tiny
