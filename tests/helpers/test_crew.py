"""Helpers that are lost, cannot open the model, or open another one: with helpers that only pretend."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import replace
from types import SimpleNamespace

import pytest

from saccade.helpers import Helpers, helping, spread
from saccade.helpers.cluster import HelperActor, RayHelper
from saccade.helpers.crew import MOST_LOSSES
from saccade.helpers.there import HelperModel, open_model
from saccade.models import open_as
from saccade.opening import Opening
from saccade.system.processes import HelperLost

CPU = Opening(device="cpu")


class Pretended:
    """Does what it is told at once, or not at all."""

    def __init__(self, log: list[str], dies: bool = False, opens: BaseException | None = None) -> None:
        self.log, self.dies = log, dies
        self.opened: Future = settled(None, opens)
        log.append("begun")

    def do(self, part, told):
        return (
            settled(None, HelperLost("it fell over")) if self.dies else settled(("there", part(None, *told)))
        )

    def outcome(self, future):
        return future.result()

    def end(self):
        self.log.append("ended")


def settled(value: object, error: BaseException | None = None) -> Future:
    made: Future = Future()
    made.set_result(value) if error is None else made.set_exception(error)
    return made


def doubled(loaded, number: int) -> int:
    return 2 * number


def work(helpers) -> list:
    parts = [(n, (n,), lambda n=n: ("here", 2 * n)) for n in range(8)]
    found = sorted(spread(helpers, doubled, parts))
    assert [(tag, value) for tag, (_, value) in found] == [(n, 2 * n) for n in range(8)]
    return [where for _, (where, _) in found]


def test_a_lost_helper_is_replaced_and_loses_nothing():
    log, said, left = [], [], [True, False]
    with Helpers(lambda number: Pretended(log, dies=left.pop(0)), 1, said.append) as made:
        assert set(work(made)) == {"here", "there"}
    assert len(said) == 1 and "a helper was lost (it fell over)" in said[0] and "another takes" in said[0]
    assert log == ["begun", "ended", "begun", "ended"]


def test_what_loses_every_helper_is_done_without_them():
    log, said = [], []
    with Helpers(lambda number: Pretended(log, dies=True), 2, said.append) as made:
        assert set(work(made)) == {"here"} and set(work(made)) == {"here"}
    assert log.count("begun") == log.count("ended") == 2 + 2 * MOST_LOSSES
    assert [line for line in said if "another takes" not in line] == said[-2:]
    assert all("the work goes on without it" in line for line in said[-2:])


def test_a_helper_without_memory_for_the_model_is_gone_without_and_other_faults_are_told():
    said = []
    with Helpers(lambda n: Pretended([], opens=MemoryError("2 GiB wanted\nof 1")), 1, said.append) as made:
        assert set(work(made)) == {"here"}
    assert said == ["a helper cannot open the model (MemoryError: 2 GiB wanted); the work goes on without it"]
    with (
        Helpers(lambda n: Pretended([], opens=ValueError("no model there")), 1) as made,
        pytest.raises(ValueError, match="no model there"),
    ):
        work(made)


def test_a_round_that_is_broken_off_leaves_nothing_to_the_next():
    with Helpers(lambda number: Pretended([]), 1) as made:
        for _ in spread(made, doubled, [(n, (n,), lambda: 0) for n in range(5)]):
            break
        work(made)


def test_a_model_that_is_not_the_one_of_this_process_is_refused(toy_folder):
    loaded = open_as(str(toy_folder), CPU)
    told = HelperModel.of(loaded, str(toy_folder), CPU)
    told.check(loaded, "node 1")
    with pytest.raises(ValueError, match=r"node 1 opened .* torch.float32 on cpu.*torch.float16.*--dtype"):
        replace(told, dtype="torch.float16").check(loaded, "node 1")
    next(loaded.model.parameters()).data.view(-1)[0] += 1
    with pytest.raises(ValueError, match=r"node 1 opened another .* than this process has"):
        told.check(loaded, "node 1")
    with pytest.raises(ValueError, match=r"node 1 has saccade .* install the same"):
        open_model(replace(told, version="0.0.1"), CPU, "node 1")


def test_numbers_of_processes_that_cannot_be_and_models_in_memory_are_refused(toy):
    for number in (0, -1, 1.5, True, 5000):
        with pytest.raises(ValueError, match="processes are a number from 1 to 1024"), helping(toy, number):
            pass
    with pytest.raises(ValueError, match="say how many"), helping(toy, 1, ray="auto"):
        pass
    with pytest.raises(ValueError, match="made in memory: save it"), helping(toy, 2):
        pass
    with helping(toy, 1) as none:
        assert none is None


class Told:
    """What a call of an actor gives, of a Ray that is not there."""

    def __init__(self, value: object = None, error: BaseException | None = None) -> None:
        self.future = lambda: settled(value, error)


def pretended_ray(run, killed: list) -> SimpleNamespace:
    """As much of Ray as a helper uses."""

    class RayError(Exception):
        pass

    class RayTaskError(RayError):
        def __init__(self, cause):
            self.cause = cause

    class ActorDiedError(RayError):
        pass

    actor = SimpleNamespace(
        open=SimpleNamespace(remote=lambda told: Told()),
        run=SimpleNamespace(remote=lambda part, told: run(ray.exceptions, part, told)),
    )
    ray = SimpleNamespace(
        exceptions=SimpleNamespace(
            RayError=RayError, RayTaskError=RayTaskError, ActorDiedError=ActorDiedError
        ),
        cluster_resources=lambda: {"CPU": 4.0, "GPU": 2.0},
        nodes=lambda: [{"Alive": True, "Resources": {"CPU": 4.0, "GPU": 2.0}}],
        remote=lambda cls: SimpleNamespace(options=lambda **needs: taken.append(needs) or made),
        kill=killed.append,
    )
    made = SimpleNamespace(remote=lambda: actor)
    taken: list[dict] = []
    ray.taken = taken
    return ray


TOLD = HelperModel("somebody/model", Opening(), 3, "digest", "torch.float16", "cuda", 1)


def test_an_actor_is_a_helper_whose_death_is_told_from_what_its_part_is_refused_by():
    calls = []

    def run(errors, part, told):
        calls.append(told)
        if len(calls) == 1:
            return Told(error=errors.ActorDiedError())
        return (
            Told(error=errors.RayTaskError(ValueError("not this one")))
            if told == (7,)
            else Told(part(None, *told))
        )

    said, killed = [], []
    ray = pretended_ray(run, killed)
    with Helpers(lambda number: RayHelper(ray, TOLD), 1, said.append) as made:
        parts = [(n, (n,), lambda n=n: 2 * n) for n in range(4)]
        assert sorted(spread(made, doubled, parts)) == [(n, 2 * n) for n in range(4)]
        assert len(said) == 1 and "a helper was lost (ActorDiedError)" in said[0] and len(killed) == 1
        with pytest.raises(ValueError, match="not this one"):
            list(spread(made, doubled, [(7, (7,), lambda: 0)]))
    assert ray.taken == [{"num_cpus": 3, "num_gpus": 1}] * 2 and len(killed) == 2


def test_an_actor_opens_the_model_on_the_accelerator_that_it_is_shown(monkeypatch):
    opened = []
    monkeypatch.setattr("saccade.helpers.cluster.open_model", lambda *told: opened.append(told))
    monkeypatch.setattr("saccade.helpers.cluster.this_node", lambda: "node 1")
    for device, there in (("cuda:1", "cuda"), ("cpu", "cpu"), (None, None)):
        HelperActor().open(replace(TOLD, opening=Opening(device=device)))
        told, opening, where = opened.pop()
        assert opening.device == there and where == "node 1" and told.name == "somebody/model"
