"""The shipped checkpoints can show a difference, and the committed figures are their own."""

from __future__ import annotations

import pytest

from saccade import models
from saccade.evaluation import compare
from saccade.glance import suite
from saccade.opening.digest import weights_digest
from saccade.research import gate
from saccade.system.embedded import EMBEDDED, Embedded
from saccade.system.files import read_json

SAMPLES = {"glance": 8, "gaze": 4}
RESULTS = {"glance": "difference_gate.json", "gaze": "difference_gate_gaze.json"}
"""What must be among the committed results of each."""

FAILS: dict[str, tuple[str, ...]] = {
    "glance": (),
    "gaze": ("60 % of the layers", "order of layers by task"),
}
"""Lines that a model does not pass, as its card says: no other may fail, nor one that passes stand here."""

FAINT: dict[str, tuple[str, ...]] = {
    "glance": (),
    "gaze": ("V-Skip in all layers", "a random quarter of the visual rows"),
}
"""Losses of a few points, which take more questions to tell from none than a test asks."""


@pytest.fixture(scope="module", params=EMBEDDED.values(), ids=lambda one: one.name)
def embedded(request) -> Embedded:
    return request.param


@pytest.fixture(scope="module")
def loaded(embedded) -> models.Loaded:
    return models.load(embedded.name)


@pytest.mark.e2e
def test_crude_skipping_costs_accuracy(embedded, loaded):
    plans = gate.crude_plans(loaded.shape.layers)
    number = SAMPLES[embedded.name]
    samples = [s for t in suite.TASKS for s in suite.samples(t, number, "test", 7, embedded.scale)]
    found = compare(loaded.model, loaded.processor, samples, plans, batch_size=52, blind=False)
    lines = gate.judge_losses(found, list(plans), [])[: len(plans)]
    known = (*FAILS[embedded.name], *FAINT[embedded.name])
    assert not [(line.what, line.found) for line in lines if not line.passed and line.what not in known]


def test_committed_results_are_of_the_shipped_weights(embedded, loaded, root):
    named = {}
    for path in sorted((root / "benchmarks" / "results").glob("*.json")):
        found = read_json(path)
        model = found.get("model") if isinstance(found, dict) else None
        if isinstance(model, dict) and model.get("name") in (embedded.name, embedded.title):
            named[path.name] = model["weights"]
    assert RESULTS[embedded.name] in named
    assert set(named.values()) == {weights_digest(loaded.model)}, named


def test_the_committed_gate_names_what_failed(embedded, root):
    found = read_json(root / "benchmarks" / "results" / RESULTS[embedded.name])
    assert found["passed"] == all(line["passed"] for line in found["lines"])
    assert tuple(line["what"] for line in found["lines"] if not line["passed"]) == FAILS[embedded.name]
