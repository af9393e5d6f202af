"""The shipped checkpoint can show a difference, and the committed figures are its own."""

from __future__ import annotations

import pytest

from saccade import models
from saccade.evaluation import compare
from saccade.glance import suite
from saccade.opening.digest import weights_digest
from saccade.research import gate
from saccade.system.files import read_json

SAMPLES = 8


@pytest.fixture(scope="module")
def glance() -> models.Loaded:
    return models.load("glance")


def test_crude_skipping_costs_accuracy(glance):
    plans = gate.crude_plans(glance.shape.layers)
    samples = [s for task in suite.TASKS for s in suite.samples(task, SAMPLES, "test", seed=7)]
    found = compare(glance.model, glance.processor, samples, plans, batch_size=52, blind=False)
    lines = gate.judge_losses(found, list(plans), [])[: len(plans)]
    assert all(line.passed for line in lines), [(line.what, line.found) for line in lines if not line.passed]


def test_committed_results_are_of_the_shipped_weights(glance, root):
    named = {}
    for path in sorted((root / "benchmarks" / "results").glob("*.json")):
        found = read_json(path)
        model = found.get("model") if isinstance(found, dict) else None
        if isinstance(model, dict) and model.get("name") in ("glance", "Glance"):
            named[path.name] = model["weights"]
    assert "difference_gate.json" in named
    assert set(named.values()) == {weights_digest(glance.model)}, named


def test_the_committed_gate_names_what_failed(root):
    found = read_json(root / "benchmarks" / "results" / "difference_gate.json")
    assert found["passed"] == all(line["passed"] for line in found["lines"])
    assert [line["passed"] for line in found["lines"][:4]] == [True] * 4
