"""Whenever a command is killed, repeating it comes to the same result, and nothing finished is lost."""

from __future__ import annotations

import json
import os
import random
import shutil

import pytest

from calibration.vlm import picture
from saccade import models
from saccade.cli import main
from saccade.inputs.samples import Sample
from saccade.plans.plan import Plan
from saccade.report import style
from saccade.research.studies import Line, Store, StudyBench, StudyQuestions
from saccade.research.studies.lines import columns
from saccade.research.studies.workers import fill_all
from support import kills
from support.asking import say
from support.toy import build_toy

KILLS = 20
PLAN = "fastv(keep=0.5,layer=1)"
SPECS = ("vskip(layers=1,3)", "random(keep=0.3)", "vtw(layer=2)")


@pytest.fixture(scope="module")
def toy():
    return build_toy()


@pytest.fixture(scope="module")
def data(toy, tmp_path_factory):
    """Six questions of two tasks as a user's file."""
    folder = tmp_path_factory.mktemp("data")
    rows = []
    for number in range(6):
        image = picture(number).resize((32, 32))
        image.save(folder / f"{number}.png")
        asked = f"is the {' '.join(('red', 'blue', 'ring')[: 1 + number % 3])} ?"
        answer = say(toy, Sample(str(number), "", "", (image,), asked)) or "nothing"
        rows.append(
            {
                "id": f"q{number}",
                "task": "ab"[number % 2],
                "image": f"{number}.png",
                "question": asked,
                "answer": answer,
            }
        )
    path = folder / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(autouse=True)
def _loaded(toy, monkeypatch):
    """Forks share one model instead of reading it."""
    monkeypatch.setattr(models, "open_as", lambda name, opening: toy)
    monkeypatch.setattr(style, "DPI", 30)


def settled(value):
    """A result without what differs from run to run."""
    if isinstance(value, dict):
        gone = ("provenance", "date", "cost", "seconds", "command", "source", "files")
        return {key: settled(part) for key, part in value.items() if key not in gone}
    return [settled(part) for part in value] if isinstance(value, list) else value


def read(path):
    return settled(json.loads(path.read_text()))


class Command:
    """A command that writes one result file.

    Attributes:
        result: The file, below the command's folder.
        partial: Where finished parts are kept, below it.
    """

    def __init__(self, name: str, data) -> None:
        shared = ("somebody/toy", "--data", data, "--device", "cpu")
        self.words = {
            "calibrate": ("calibrate", *shared, "--samples", 6, "--budget", 2, "--no-check",
                          "--out", "plan.json"),
            "eval": ("eval", *shared, "--plan", PLAN, "--plan", "vskip(budget=2)", "--max-new-tokens", 2,
                     "--batch", 2, "--json", "eval.json"),
            "analyze": ("analyze", *shared, "--what", "ffn", "--samples", 6, "--out", "an"),
        }[name]  # fmt: skip
        self.result = {"calibrate": "plan.json", "eval": "eval.json", "analyze": "an/analysis.json"}[name]
        self.partial = f"{self.result}.partial.jsonl"

    def run(self, folder) -> int:
        os.chdir(folder)
        return main([str(word) for word in self.words])


@pytest.fixture(
    params=["calibrate", "eval", pytest.param("analyze", marks=pytest.mark.long(instead="calibrate"))]
)
def command(request, data, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return Command(request.param, data)


def fresh(tmp_path, name: str):
    folder = tmp_path / name
    folder.mkdir()
    return folder


@pytest.mark.e2e
def test_a_command_that_is_killed_again_and_again_ends_as_one_that_never_was(command, tmp_path, monkeypatch):
    rng = random.Random(0)
    whole = fresh(tmp_path, "whole")
    assert command.run(whole) == 0  # here, so that forks need not import
    want = read(whole / command.result)
    assert not kills.left_over(whole) and not (whole / command.partial).exists()
    killed, ended = 0, 0
    while killed < KILLS:
        folder = fresh(tmp_path, f"run-{ended}")
        code = kills.KILLED
        while code == kills.KILLED:
            before = whole_lines(folder / command.partial)
            # The last ones run to their end.
            step = rng.randrange(1, 12) if killed < KILLS else 0
            code = kills.forked(lambda: command.run(folder), step)  # noqa: B023
            killed += code == kills.KILLED
            if (folder / command.result).exists():
                assert read(folder / command.result) == want  # whole or not at all
            else:
                assert (
                    whole_lines(folder / command.partial)[: len(before)] == before
                )  # what was finished stays
            if kept_some(folder / command.partial) and rng.random() < 0.3:
                tear(folder / command.partial, rng)
        assert code == 0 and read(folder / command.result) == want
        assert not (folder / command.partial).exists() and not kills.left_over(folder)
        ended += 1


def kept_some(path) -> bool:
    return path.exists() and path.stat().st_size > 0


def whole_lines(path) -> list[bytes]:
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    return [line for line in lines if line.endswith(b"\n")]


def tear(path, rng) -> None:
    """Leaves half of what would be the next line, as a kill within a write does."""
    with path.open("ab") as stream:
        stream.write(b'{"sample": "q' + bytes(rng.randrange(32, 127) for _ in range(rng.randrange(9))))


@pytest.mark.e2e
def test_a_real_kill(command, tmp_path):
    whole, folder = fresh(tmp_path, "whole"), fresh(tmp_path, "killed")
    assert command.run(whole) == 0  # here, so that forks need not import
    kills.sigkilled(lambda: command.run(folder), lambda: kept_some(folder / command.partial))
    lines = (folder / command.partial).read_bytes().count(b"\n")
    assert lines >= 2 and not (folder / command.result).exists()
    assert kills.forked(lambda: command.run(folder)) == 0
    assert read(folder / command.result) == read(whole / command.result) and not kills.left_over(folder)


class StudyLike:
    """Scores layers and fills cells, as studies do."""

    def __init__(self, toy, data) -> None:
        self.toy, self.questions = toy, StudyQuestions.of_file(data, (), 2, 1, 0)

    def run(self, folder) -> int:
        bench = StudyBench(self.toy, self.questions, Store(folder), tokens=2)
        for task in bench.tasks:
            bench.pool("vig", task)
        wanted = columns(bench, [Line(spec, Plan.of(spec)) for spec in SPECS])
        fill_all(self.toy, bench.store, self.questions, wanted, batch_size=1)
        return 0

    @staticmethod
    def found(folder):
        return {
            str(p.relative_to(folder)): settled(json.loads(p.read_text())) | {"made": 0}
            for p in folder.rglob("*.json")
        }


@pytest.mark.e2e
def test_a_study_that_is_killed_again_and_again_ends_as_one_that_never_was(toy, data, tmp_path):
    study, rng = StudyLike(toy, data), random.Random(1)
    whole, folder = fresh(tmp_path, "whole"), fresh(tmp_path, "killed")
    assert study.run(whole) == 0
    want = study.found(whole)
    assert len(want) == 2 + 2 * (2 + len(SPECS))
    killed = 0
    while killed < KILLS:
        code = kills.forked(lambda: study.run(folder), rng.randrange(1, 14))
        killed += code == kills.KILLED
        assert study.found(folder).items() <= want.items()
        if code != kills.KILLED:
            assert study.found(folder) == want and not list(folder.rglob("*.partial.jsonl"))
            shutil.rmtree(folder)
    assert kills.forked(lambda: study.run(folder)) == 0
    assert study.found(folder) == want and not list(folder.rglob("*.partial.jsonl"))


@pytest.mark.e2e
def test_a_real_kill_of_a_study(toy, data, tmp_path):
    study = StudyLike(toy, data)
    whole, folder = fresh(tmp_path, "whole"), fresh(tmp_path, "killed")
    assert study.run(whole) == 0
    kills.sigkilled(lambda: study.run(folder), lambda: any(folder.glob("cells/*/*.json")))
    assert study.found(folder).items() < study.found(whole).items()
    assert kills.forked(lambda: study.run(folder)) == 0
    assert study.found(folder) == study.found(whole)
