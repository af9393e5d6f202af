"""``eval``, ``calibrate``, ``tune`` and ``study`` with actors for helpers: as one, whatever is killed.

The last three tests share a cluster, which the last two break.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import tempfile
import time
from argparse import Namespace
from pathlib import Path

import pytest
import ray
import torch

from saccade.helpers import helping
from saccade.models import load
from saccade.plans.plan import Plan
from saccade.research.studies import Line, Store, StudyBench, StudyQuestions
from saccade.research.studies.lines import columns
from saccade.research.studies.workers import fill_all
from support.clusters import actors, began, raylets, wait_for
from support.toy import save_toy

pytestmark = pytest.mark.timeout(1200)
BENCH = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "scaling.py"))
WORDS = {
    "eval": (
        *("eval", "glance", "--plan", "vskip(layers=8-11)", "--task", "count"),
        *("--samples", 60, "--batch", 4),
    ),
    "calibrate": ("calibrate", "glance", "--budget", 4, "--task", "count"),
    "tune": ("tune", "glance", "--flops", 0.6, "--task", "count"),
    "study": ("study", "budget", "glance", "--task", "count"),
}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    # Helpers compute with as many threads as this process, and three with several each are slow on few cores.
    torch.set_num_threads(1)
    return load(str(save_toy(tmp_path_factory.mktemp("toy"))), device="cpu")


SAID: list[str] = []


@pytest.fixture(scope="module")
def broken():
    """A cluster that tests break."""
    with raylets() as made:
        yield made


@pytest.fixture(scope="module")
def crew(broken, loaded):
    """Two actors that have opened the model, each on a node of its own."""
    ray.init(address=broken.address, log_to_driver=False, logging_level="error")
    try:
        with helping(loaded, 3, ray="auto", say=SAID.append) as made:
            made.take("early", place)
            wait_for(lambda: made.ready == 2, 600)
            yield made
    finally:
        ray.shutdown()


@pytest.fixture
def helpers(crew):
    """The same, before a test says anything."""
    SAID.clear()
    return crew


def place(loaded) -> tuple[str, int]:
    """Which node and process a part is done by."""
    return ray.get_runtime_context().get_node_id(), os.getpid()


def places(helpers) -> list[tuple[str, int]]:
    """Where the helpers that are ready are."""
    asked = [helpers.take(n, place) for n in range(helpers.ready)]
    found: list[tuple[str, int]] = []
    while len(found) < sum(asked):
        found += [where for _, where in helpers.done(wait_for_one=True)]
    return found


@pytest.fixture(scope="module")
def works(loaded):
    """What commands do, by command: told the helpers, and giving what was found."""
    known = BENCH["works"](loaded, Namespace(questions=104, samples=52, passes=800))
    return known | {"study": lambda by: studied(loaded, by)}


def studied(loaded, by) -> object:
    """Scores and answers of a small study."""
    with tempfile.TemporaryDirectory() as folder:
        questions = StudyQuestions.of_suite(("count", "word"), 6, 4, 0)
        bench = StudyBench(loaded, questions, Store(folder), tokens=3, helpers=by)
        wanted = columns(bench, [Line(spec, Plan.of(spec)) for spec in ("vskip(layers=1)", "vtw(layer=2)")])
        fill_all(loaded, bench.store, questions, wanted, batch_size=2, helpers=by)
        cells = [bench.store.get(column.key) for each in wanted.values() for column in each]
        return bench.pool("vig", "count").values_SL, [(cell.key, cell.texts, cell.spent) for cell in cells]


@pytest.fixture(scope="module")
def alone(works):
    """What one process finds."""
    return {name: work(None) for name, work in works.items()}


def watched(helpers, monkeypatch, at: int = 10_000, then=lambda: None) -> list[object]:
    """Parts that helpers take; when so many are taken something happens."""
    taken: list[object] = []
    real = helpers.take

    def take(tag, part, *told):
        found = real(tag, part, *told)
        if found:
            taken.append(tag)
            if len(taken) == at:
                then()
        return found

    monkeypatch.setattr(helpers, "take", take)
    return taken


def command(name: str, folder: Path, *more: object):
    """A command that writes into a folder."""
    folder.mkdir(exist_ok=True)
    wrote = {
        "eval": ("--json", folder / "out.json"),
        "calibrate": ("--out", folder / "plan.json"),
        "tune": ("--out", folder / "plan.json"),
        "study": ("--run", folder / "store", "--out", folder / "out"),
    }
    return began(*WORDS[name], "--device", "cpu", "--threads", 1, *wrote[name], *more)


def kept(folder: Path) -> int:
    """Lines that are kept on the way."""
    return sum(len(path.read_text().splitlines()) for path in folder.glob("*.partial.jsonl"))


def test_a_killed_driver_loses_nothing(cluster, tmp_path):
    run = command("eval", tmp_path / "killed", "--processes", 3, "--ray", cluster.address)
    wait_for(lambda: kept(tmp_path / "killed") > 5, 600)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    before = kept(tmp_path / "killed")
    wait_for(lambda: not actors("HelperActor"), 60)
    found = []
    for folder in ("killed", "alone"):  # one process goes on with what several kept
        again = command("eval", tmp_path / folder)
        told = again.communicate()[1]
        assert again.returncode == 0 and before > 5, told
        found.append(json.loads((tmp_path / folder / "out.json").read_text()) | {"provenance": None})
    assert found[0] == found[1]


@pytest.mark.parametrize("name", WORDS)
def test_a_cluster_that_is_not_there_is_one_line_within_seconds(name, tmp_path):
    start = time.monotonic()
    run = command(name, tmp_path, "--processes", 3, "--ray", "127.0.0.1:1")
    said = run.communicate()[1]
    assert run.returncode == 2 and said.strip().count("\n") == 0, said
    assert "no Ray cluster at '127.0.0.1:1'" in said and time.monotonic() - start < 60


def test_what_a_helper_is_refused_by_and_a_full_cluster_are_one_line():
    said: list[str] = []
    loaded = load("glance", device="cpu")
    ray.init(address="local", num_cpus=1, logging_level="error")
    try:
        # Its weights are others than those that the actor finds under the name.
        next(loaded.model.parameters()).data.view(-1)[0] += 1
        with (
            helping(loaded, 3, ray="local", say=said.append) as helpers,
            pytest.raises(ValueError, match=r"node .* opened another .* than this process has"),
        ):
            wait_for(lambda: helpers.take("it", place), 600)
    finally:
        ray.shutdown()
    assert said == ["the cluster has room for 1 of 2 helpers now; the others wait for it"]


def test_actors_find_what_one_process_finds(helpers, works, alone, monkeypatch):
    taken = watched(helpers, monkeypatch)
    for name, work in works.items():
        assert work(helpers) == alone[name], name
        assert len(taken) > 4, name
        taken.clear()
    assert not SAID


def test_a_killed_actor_loses_nothing_and_is_one_line(helpers, works, alone, monkeypatch):
    (_, process), *_ = places(helpers)
    taken = watched(helpers, monkeypatch, 5, lambda: os.kill(process, signal.SIGKILL))
    for name in ("eval", "study"):
        assert works[name](helpers) == alone[name]
    (line,) = SAID
    assert len(taken) > 5 and "a helper was lost" in line and "another takes its place" in line


def test_a_lost_machine_loses_nothing(broken, helpers, works, alone, monkeypatch):
    nodes = {node.node_id: node for node in broken.worker_nodes}
    wait_for(lambda: any(node in nodes for node, _ in places(helpers)), 600)
    lost = next(nodes[node] for node, _ in places(helpers) if node in nodes)
    taken = watched(helpers, monkeypatch, 3, lambda: broken.remove_node(lost, allow_graceful=False))
    for name in ("tune", "eval"):
        assert works[name](helpers) == alone[name]
    assert len(taken) > 3 and "a helper was lost" in SAID[0]
