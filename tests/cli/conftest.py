"""Models small enough for the command line in a test."""

from __future__ import annotations

import pytest

from saccade.core.shapes import SHAPES, ModelShape
from saccade.measure import target
from support.models import FACTORIES

TOY = ModelShape("toy", 6, 64, 4, 2, 16, 128, 256, 24)


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

    def open_as(name, opening):
        return models.wrap(tiny.model, None, name)

    def inputs(loaded, samples, plan=None):
        segments = [[3, *((24, 24) for _ in sample.images), 5] for sample in samples]
        return BatchFeature(tiny.batch(segments))

    def answers(loaded, output_ids, prompt_rows):
        return [" ".join(map(str, row)) for row in output_ids[:, prompt_rows:].tolist()]

    monkeypatch.setattr(models, "open_as", open_as)
    monkeypatch.setattr(models, "inputs", inputs)
    monkeypatch.setattr(models, "answers", answers)
    return tiny
