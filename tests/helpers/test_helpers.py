"""Several processes answer as one does; one that ends early, or a part that is refused, is one line."""

from __future__ import annotations

import json
import os
import runpy
import signal
import time
from argparse import Namespace
from contextlib import contextmanager
from dataclasses import replace

import pytest

from saccade.calibration import calibrate
from saccade.cli.drawn import read_questions
from saccade.evaluation.comparison import compare
from saccade.evaluation.ledger import Ledger
from saccade.helpers import Once, helping, spread
from saccade.helpers.crew import AHEAD
from saccade.models import open_as
from saccade.opening import Opening
from saccade.plans.plan import Plan
from saccade.research.studies import Line, Store, StudyBench, StudyQuestions
from saccade.research.studies.lines import columns
from saccade.research.studies.workers import fill_all
from saccade.system.embedded import GLANCE
from saccade.system.journal import Journal
from saccade.tuning import Settings, Watch
from saccade.tuning import judge as judge_of
from saccade.tuning.questions import split
from saccade.tuning.run import run, tune

CPU = Opening(device="cpu")
PLANS = ("vskip(layers=0-1)", "resize(scale=0.5)", "divprune(keep=0.4)")


def number_of(loaded, text: str) -> tuple[int, str]:
    return os.getpid(), text + loaded.family.name


def refused(loaded) -> None:
    raise ValueError("not this one")


def ended(loaded) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def loaded(toy_folder):
    return open_as(str(toy_folder), CPU)


SAID: list[str] = []


@pytest.fixture(scope="module")
def helpers(loaded):
    with helping(loaded, 2, say=SAID.append) as made:
        assert not made.take("early", number_of, ""), "it has not opened its model yet"
        while not made.ready:
            time.sleep(0.05)
        yield made


@pytest.mark.e2e
def test_parts_come_back_with_their_tags_from_another_process(helpers, toy):
    assert all(helpers.take(n, number_of, f"{n} ") for n in range(AHEAD))
    assert not helpers.take(9, number_of, ""), "nobody has room"
    found = {}
    while len(found) < AHEAD:
        found |= dict(helpers.done(wait_for_one=True))
    assert [text for _, text in map(found.get, range(AHEAD))] == [
        f"{n} {toy.family.name}" for n in range(AHEAD)
    ]
    assert os.getpid() not in {pid for pid, _ in found.values()}
    assert not list(helpers.done()) and not list(helpers.done(wait_for_one=True))


@pytest.mark.e2e
def test_what_a_part_is_refused_by_is_said_here(helpers):
    assert helpers.take("it", refused)
    with pytest.raises(ValueError, match="not this one"):
        list(helpers.done(wait_for_one=True))
    assert helpers.take("it", number_of, "") and list(helpers.done(wait_for_one=True))


@pytest.mark.e2e
def test_what_parts_have_in_common_is_sent_to_a_helper_once(helpers):
    sizes = []

    class Counted:
        def __reduce__(self):
            sizes.append(1)
            return str, ("counted",)

    told = Once(Counted())
    for _ in range(3):
        assert helpers.take("it", number_of, told)
        ((_, (_, text)),) = helpers.done(wait_for_one=True)
        assert text.startswith("counted")
    assert len(sizes) == 1


@pytest.mark.e2e
def test_two_processes_answer_as_one_does_and_go_on_from_what_is_kept(
    helpers, loaded, questions, tmp_path, monkeypatch
):
    asked = dict(batch_size=2, max_new_tokens=4)
    alone = compare(loaded.model, loaded.processor, questions, PLANS, **asked)
    put, by_helpers = Ledger.put, []

    def counted(self, plan, ids, *told):
        put(self, plan, ids, *told)
        by_helpers.append(plan)

    monkeypatch.setattr(Ledger, "put", counted)
    kept = tmp_path / "kept.jsonl"
    again = dict(helpers=helpers, ledger=kept, **asked)
    both = compare(loaded.model, loaded.processor, questions, PLANS, **again)
    assert both.to_dict() == alone.to_dict() and len(by_helpers) > len(PLANS)
    by_helpers.clear()
    known = compare(loaded.model, loaded.processor, questions, PLANS, **again)
    assert known.to_dict() == alone.to_dict() and not by_helpers


@pytest.mark.e2e
def test_layers_are_scored_by_two_processes_as_by_one(helpers, loaded, questions, tmp_path):
    given = {"num_samples": len(questions), "budget": 2, "check": False}
    alone = calibrate(loaded.model, loaded.processor, questions, "vskip", **given)
    seen: list[tuple[int, int]] = []
    both = calibrate(
        loaded.model,
        loaded.processor,
        questions,
        "vskip",
        helpers=helpers,
        out=tmp_path / "plan.json",
        progress=lambda *told: seen.append(told),
        **given,
    )
    assert both.spec == alone.spec
    assert both.calibration["scores"] == alone.calibration["scores"]
    assert [done for done, _ in seen] == list(range(len(questions) + 1))
    assert not list(tmp_path.glob("*.partial*"))


@pytest.mark.e2e
def test_the_command_with_two_processes_writes_what_one_writes(program, toy_folder, tmp_path):
    words = ("eval", toy_folder, "--plan", PLANS[0], "--samples", 2, "--task", "count", "--task", "list")
    words += ("--max-new-tokens", 4, "--batch", 2, "--device", "cpu", "--threads", 1)
    for processes in (1, 2):
        done = program(*words, "--processes", processes, "--json", tmp_path / f"{processes}.json")
        assert done.code == 0, done.err
    one, two = (json.loads((tmp_path / f"{n}.json").read_text()) for n in (1, 2))
    assert {**one, "provenance": None} == {**two, "provenance": None}
    assert not list(tmp_path.glob("*.partial*"))


SMALL = {
    "num_samples": 18, "num_held_out": 10, "passes": 160, "tokens": 2, "batch": 13, "unsure": 0.2,
    "allow": ("freeze", "reduce"),
}  # fmt: skip


@pytest.fixture
def shared(helpers, monkeypatch):
    """Who found the losses of plans: whether each came from the helper, in the order they came in."""
    seen: list[bool] = []
    real = judge_of.spread

    def watched(*told):
        for tag, (found, there) in real(*told):
            seen.append(there)
            yield tag, (found, there)

    monkeypatch.setattr(judge_of, "spread", watched)
    return seen


@pytest.mark.e2e
def test_tuning_by_two_processes_finds_what_one_finds_and_keeps_the_same(
    helpers, loaded, questions, tmp_path, shared
):
    settings = Settings(flops=0.7, **SMALL)
    several = [
        replace(q, id=f"{n} {q.id}", question=q.question + " ?" * n) for n in range(3) for q in questions
    ]
    asked = split(several, settings)
    found, kept, ran = {}, {}, {}
    for name, by in (("one", None), ("two", helpers)):
        path, count = tmp_path / f"{name}.jsonl", []
        with Journal(path) as journal:
            watch = Watch(step=count.append)
            found[name] = run(loaded, asked, settings, journal, watch, explain=True, helpers=by)
        kept[name] = sorted(line for line in path.read_text().splitlines() if '"settings"' not in line)
        ran[name] = sum(count)
    one, two = found["one"], found["two"]
    assert one.plan is not None and two.plan is not None and one.plan.spec == two.plan.spec
    assert {**one.data, "provenance": 0, "facts": 0} == {**two.data, "provenance": 0, "facts": 0}
    assert len(one.data["tune"]["tried"]) > 2 and shared.count(True) > 4 < shared.count(False)
    assert kept["one"] == kept["two"]
    # What two processes kept is all that one needs, to end alike without running a prompt under a plan.
    steps: list[int] = []
    with Journal(tmp_path / "two.jsonl") as journal:
        again = run(loaded, asked, settings, journal, Watch(step=steps.append), explain=True)
    assert again.data["tune"] == one.data["tune"] and sum(steps) < ran["two"] / 4


@pytest.mark.e2e
def test_the_command_and_python_share_a_tuning_alike(
    helpers, loaded, toy_folder, command, tmp_path, monkeypatch, shared
):
    asked: list[tuple] = []

    @contextmanager
    def given(loaded, processes, opening=None, *, ray=None, say=None):
        asked.append((processes, ray))
        yield helpers if processes > 1 else None

    monkeypatch.setattr("saccade.helpers.helping", given)
    monkeypatch.setattr("saccade.tuning.run.helping", given)
    small = {"num_samples": 14, "num_held_out": 8, "passes": 70, "tokens": 2, "allow": ("freeze",)}
    words = ("--task", "count", "--flops", 0.7, "--samples", 14, "--held-out", 8, "--passes", 70)
    words += ("--max-new-tokens", 2, "--allow", "freeze", "--device", "cpu", "--threads", 1)
    done = command("tune", toy_folder, *words, "--processes", 2, "--out", tmp_path / "plan.json")
    assert done.code == 0, done.err
    assert asked == [(2, None)] and any(shared)
    pool = read_questions(["count"], None, Settings(flops=0.7, **small), GLANCE)
    found = tune(
        loaded.model, loaded.processor, pool.search, held_out=pool.held_out, flops=0.7, processes=2, **small
    )
    assert asked == [(2, None)] * 2 and found.plan is not None
    assert found.plan.spec == Plan.load(tmp_path / "plan.json").spec
    with pytest.raises(ValueError, match="where other processes would disturb it"):
        tune(loaded.model, loaded.processor, pool.search, time=0.5, processes=2, **small)


@pytest.mark.e2e
def test_what_more_processes_are_worth_is_measured(helpers, loaded, root):
    bench = runpy.run_path(str(root / "benchmarks" / "scaling.py"))
    chosen = Namespace(questions=3, samples=8, passes=60)
    for name, work in bench["works"](loaded, chosen).items():
        if name != "tune":  # the longest, and compared above
            found = bench["timed"](work, helpers, 1)
            assert min(found["one_s"], found["all_s"]) > 0, name


@pytest.mark.e2e
def test_a_study_by_two_processes_keeps_what_one_keeps(helpers, loaded, tmp_path):
    questions = StudyQuestions.of_suite(("count", "word"), 5, 2, 0)
    lines = [Line(spec, Plan.of(spec)) for spec in PLANS]
    stores, seen = {}, []
    for name, by in (("one", None), ("two", helpers)):
        store = stores[name] = Store(tmp_path / name)
        bench = StudyBench(loaded, questions, store, tokens=3, helpers=by)
        wanted = columns(bench, lines)
        fill_all(loaded, store, questions, wanted, batch_size=2, step=seen.append, helpers=by)
        assert bench.pool("vig", "count").mean
    assert sum(seen) == 2 * 2 * 5 * (2 + len(PLANS))
    files = [sorted(p.relative_to(s.path) for p in s.path.rglob("*") if p.is_file()) for s in stores.values()]
    assert files[0] == files[1] and len(files[0]) == 2 * (2 + len(PLANS)) + 1
    for each in wanted.values():
        for column in each:
            first, second = (store.get(column.key) for store in stores.values())
            assert replace(first, made={}) == replace(second, made={}) and second.made["seconds"] > 0


@pytest.mark.e2e
def test_a_helper_that_is_killed_is_one_line_and_its_parts_are_done_here(helpers):
    """The last of this file: it kills the helper that the others share."""
    parts = [(n, (), lambda n=n: n) for n in range(4)]
    assert sorted(spread(helpers, ended, parts)) == [(n, n) for n in range(4)]
    (line,) = SAID
    assert "a helper was lost (its process was killed)" in line and "another takes its place" in line
