"""Several processes answer as one does; one that ends early, or a part that is refused, is one line."""

from __future__ import annotations

import json
import os
import signal

import pytest

from saccade.calibration import calibrate
from saccade.evaluation.comparison import compare
from saccade.evaluation.ledger import Ledger
from saccade.helpers import AHEAD, Helpers
from saccade.models import open_as
from saccade.opening import Opening
from saccade.system.processes import ProcessEnded

CPU = Opening(device="cpu")
PLANS = ("vskip(layers=0-1)", "resize(scale=0.5)", "divprune(keep=0.4)")


def number_of(loaded, text: str) -> tuple[int, str]:
    return os.getpid(), text + loaded.family.name


def refused(loaded) -> None:
    raise ValueError("not this one")


def ended(loaded) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def helpers(toy_folder):
    with Helpers(str(toy_folder), CPU, 1, 1) as made:
        yield made


@pytest.mark.e2e
def test_parts_come_back_with_their_tags_from_another_process(helpers, toy):
    assert all(helpers.take(n, number_of, f"{n} ") for n in range(AHEAD))
    assert not helpers.take(9, number_of, ""), "nobody has room"
    found = dict(helpers.done(all_of_them=True))
    assert [text for _, text in map(found.get, range(AHEAD))] == [
        f"{n} {toy.family.name}" for n in range(AHEAD)
    ]
    assert os.getpid() not in {pid for pid, _ in found.values()}
    assert not list(helpers.done()) and not list(helpers.done(all_of_them=True))


@pytest.mark.e2e
def test_what_a_part_is_refused_by_is_said_here(helpers):
    assert helpers.take("it", refused)
    with pytest.raises(ValueError, match="not this one"):
        list(helpers.done(all_of_them=True))
    assert helpers.take("it", number_of, "") and list(helpers.done(all_of_them=True))


@pytest.mark.e2e
def test_a_helper_that_is_killed_is_one_line(toy_folder):
    with Helpers(str(toy_folder), CPU, 1, 1) as made:
        made.take("it", ended)
        with pytest.raises(ProcessEnded, match="repeat the command to go on"):
            list(made.done(all_of_them=True))
        with pytest.raises(ProcessEnded, match="repeat the command"):
            made.take("it", ended)


@pytest.mark.e2e
def test_two_processes_answer_as_one_does_and_go_on_from_what_is_kept(
    helpers, toy_folder, questions, tmp_path, monkeypatch
):
    loaded = open_as(str(toy_folder), CPU)
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
def test_layers_are_scored_by_two_processes_as_by_one(helpers, toy_folder, questions, tmp_path):
    loaded = open_as(str(toy_folder), CPU)
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
