"""Answers are those of ``compare``, an interrupted study repeats nothing, and studies share their cells."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from research.studies.conftest import TOKENS
from saccade import models
from saccade.evaluation import compare
from saccade.inputs.samples import Sample
from saccade.plans.plan import Plan
from saccade.research.studies import STUDIES, Book, Line, Store, StudyBench, StudyQuestions, run
from saccade.research.studies import cells as cells_of
from saccade.research.studies.cells import LEAST, MADE_BY, batches, fill, makers
from saccade.research.studies.lines import columns
from saccade.research.studies.workers import fill_all
from support.programs import environment

SPECS = ("vskip(layers=1,3)", "random(keep=0.3)", "resize(scale=0.6)", "vtw(layer=2)")
LINES = [Line(spec, Plan.of(spec)) for spec in SPECS]


def tokenizer(text, **options):
    """As many tokens as words."""
    return SimpleNamespace(input_ids=text.split())


@given(st.lists(st.tuples(st.integers(1, 5), st.sampled_from("ab")), max_size=150), st.integers(1, 40))
def test_batches_hold_everything_once_and_mix_lengths_only_where_they_are_small(asked, size):
    image = Image.new("RGB", (2, 2))
    samples = [Sample(str(i), task, "", (image,), "x " * words) for i, (words, task) in enumerate(asked)]
    found = batches(samples, tokenizer, size)
    assert sorted(i for batch in found for i in batch) == list(range(len(samples)))
    for batch in found:
        lengths = [asked[i][0] for i in batch]
        assert 1 <= len(batch) <= size and len({asked[i][1] for i in batch}) == 1
        assert lengths == sorted(lengths)
        # A length begins a batch of its own once the batch before it is large enough.
        first_of_last = lengths.index(lengths[-1])
        assert first_of_last < min(LEAST, size) or first_of_last == 0


def test_answers_scores_and_costs_are_those_of_compare(bench):
    samples = [s for task in bench.tasks for s in bench.questions.asked(task)]
    found = compare(
        bench.loaded.model, bench.loaded.processor, samples, list(SPECS), batch_size=2, max_new_tokens=TOKENS
    )
    wanted = columns(bench, LINES)
    fill_all(bench.loaded, bench.store, bench.questions, wanted, batch_size=3)
    book = Book(bench, LINES)
    assert book.whole()["dense"]["mean"] == found.dense.mean.to_dict()
    assert len({p.text for task in bench.tasks for s in SPECS for p in book.predictions(task, s)}) > 1
    for line in LINES:
        mine, theirs = book.of_line(line), found.plans[line.name]
        assert mine.predictions == theirs.predictions
        assert mine.mean == theirs.mean and mine.tasks == theirs.tasks
        # Studies price the decoder, as the papers do.
        assert mine.cost == pytest.approx({key: theirs.cost[key] for key in mine.cost})
        assert {"gflops", "kv_bytes", "flops_ratio"} <= mine.cost.keys()


def test_lines_with_a_plan_per_task_are_scored_by_each_tasks_own(bench):
    own = Line("own", {"first": Plan.of(SPECS[0]), "second": Plan.of(SPECS[1])})
    fill_all(bench.loaded, bench.store, bench.questions, columns(bench, [own, *LINES]), batch_size=3)
    book = Book(bench, [own, *LINES])
    scored = book.of_line(own)
    assert scored.tasks["first"] == book.of_line(LINES[0]).tasks["first"]
    assert scored.tasks["second"] == book.of_line(LINES[1]).tasks["second"]
    assert book.against("own", SPECS[0], ("first",)).value == 0
    a, b = (book.of_line(line).cost["gflops"] for line in LINES[:2])
    assert min(a, b) < scored.cost["gflops"] < max(a, b)


@pytest.fixture
def counted(monkeypatch):
    """Counts batches that are really asked; stops like Ctrl-C after ``counted.stop`` of them."""
    seen = SimpleNamespace(asked=[], stop=None)
    real = cells_of.generate

    def generate(loaded, inputs, plan, tokens):
        if seen.stop is not None and len(seen.asked) >= seen.stop:
            raise KeyboardInterrupt
        seen.asked.append((plan and plan.spec, inputs["input_ids"].shape))
        return real(loaded, inputs, plan, tokens)

    monkeypatch.setattr(cells_of, "generate", generate)
    return seen


def test_a_killed_study_goes_on_within_a_cell_and_repeats_nothing(loaded, questions, tmp_path, counted):
    def once(folder):
        bench = StudyBench(loaded, questions, Store(folder), tokens=TOKENS)
        return fill_all(loaded, bench.store, questions, columns(bench, LINES), batch_size=2)

    once(tmp_path / "whole")
    whole = len(counted.asked)
    assert whole == 2 * (2 + len(SPECS)) * 2  # tasks, columns, batches of three questions
    for stop in (3, 4, 9):
        counted.asked.clear()
        counted.stop = stop
        folder = tmp_path / str(stop)
        with pytest.raises(KeyboardInterrupt):
            once(folder)
        finished = len(list(folder.rglob("*.json")))
        assert finished == stop // 2
        counted.stop = None
        once(folder)
        assert len(counted.asked) == whole
        assert once(folder) == 0 and len(counted.asked) == whole
        assert not list(folder.rglob("*.partial.jsonl"))
        names = {path.relative_to(folder) for path in folder.rglob("*.json")}
        for name in names:
            first, second = (Store(tmp_path / where).path / name for where in ("whole", str(stop)))
            assert json.loads(first.read_text())["texts"] == json.loads(second.read_text())["texts"]


def test_a_worker_that_is_interrupted_stops_within_a_cell_and_loses_nothing(
    loaded, questions, tmp_path, counted
):
    bench = StudyBench(loaded, questions, Store(tmp_path), tokens=TOKENS)
    wanted = columns(bench, LINES)

    def step(answers: int) -> None:
        if len(counted.asked) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill_all(loaded, bench.store, questions, wanted, batch_size=2, step=step)
    assert len(counted.asked) == 3 and len(list(tmp_path.rglob("*.partial.jsonl"))) == 1
    assert not list(tmp_path.rglob("*.lock"))
    fill_all(loaded, bench.store, questions, wanted, batch_size=2)
    assert len(counted.asked) == 2 * (2 + len(SPECS)) * 2


@pytest.mark.e2e
@pytest.mark.parametrize(
    "shell",
    ["in front", pytest.param("nohup in the background", marks=pytest.mark.long(instead="in front"))],
)
def test_workers_whose_parent_is_killed_end_as_by_an_interrupt(tmp_path, shell):
    program = Path(__file__).with_name("waiting.py")
    command = [sys.executable, str(program), str(tmp_path)]
    if shell.startswith("nohup"):
        # What shells do with background jobs: Ctrl-C is ignored, by all that they start too.
        ignoring = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); "
        command = [sys.executable, "-c", ignoring + "os.execv(sys.argv[1], sys.argv[1:])", *command]
    parent = subprocess.Popen(command, env=environment())

    def both(name: str) -> bool:
        limit = time.monotonic() + 150
        while time.monotonic() < limit:
            if all((tmp_path / f"{name}-{number}").exists() for number in (0, 1)):
                return True
            time.sleep(0.05)
        return False

    try:
        assert both("begun")
    finally:
        parent.kill()
        parent.wait()
    assert both("ended")


def test_a_later_study_asks_only_what_no_study_asked_before(loaded, questions, tmp_path, counted):
    bench = StudyBench(loaded, questions, Store(tmp_path), tokens=TOKENS)
    first = run(STUDIES["budget"], bench, 4)
    assert first["seconds"]["cells_of_this_run"] == first["seconds"]["cells"]
    asked = [spec for spec, _ in counted.asked]
    counted.asked.clear()
    again = run(STUDIES["budget"], bench, 4)
    assert not counted.asked and again["seconds"]["cells_of_this_run"] == 0
    assert {**again, "seconds": 0, "provenance": 0} == {**first, "seconds": 0, "provenance": 0}
    (by,) = again["provenance"]["answers"]
    assert by["cells"] == first["seconds"]["cells"] and by["versions"]["transformers"]
    assert {name: by[name] for name in MADE_BY} == {name: again["provenance"][name] for name in MADE_BY}
    identify = run(STUDIES["identify"], bench, 4)
    assert identify["seconds"]["cells_of_this_run"] < identify["seconds"]["cells"] - 4
    assert not {spec for spec, _ in counted.asked} & set(asked)


def test_prompts_are_built_once_for_all_plans_of_a_task(bench, questions, tmp_path, monkeypatch):
    built = []
    real = models.inputs
    monkeypatch.setattr(models, "inputs", lambda *a: built.append(len(a)) or real(*a))
    store = Store(tmp_path)
    plans = [Line(s, Plan.of(s)) for s in ("vskip(layers=1)", "vtw(layer=1)", "shortv(layers=2)")]
    fill(bench.loaded, store, lambda: questions.asked("first"), columns(bench, plans)["first"], batch_size=8)
    assert len(built) == 2  # seeing, and blind


def test_a_plan_that_cannot_run_is_refused_before_anything_is_asked(bench):
    with pytest.raises(ValueError, match="names layer 9"):
        columns(bench, [Line("deep", Plan.of("vskip(layers=9)"))])


def test_answers_of_several_versions_are_told_apart():
    old, new = ({"versions": {"saccade": v}, "seconds": n} for n, v in enumerate(("0.1", "0.2")))
    assert [(by["cells"], by["versions"]["saccade"]) for by in makers([old, new, new])] == [
        (2, "0.2"),
        (1, "0.1"),
    ]
    assert makers([{}, {"seconds": 3}]) == [{"cells": 2} | dict.fromkeys(MADE_BY)]


def test_answers_hang_on_the_questions(data_file, loaded, tmp_path):
    keys = set()
    for seed, samples in ((0, 3), (1, 3), (0, 2)):
        bench = StudyBench(loaded, StudyQuestions.of_file(data_file, (), samples, 4, seed), Store(tmp_path))
        keys.add(bench.column("first", "dense").key)
    assert len(keys) == 3
