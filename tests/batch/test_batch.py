"""A file of questions in shards: every record once, whoever is killed whenever."""

from __future__ import annotations

import json
import os
import random
import signal
import time

import pytest

from saccade import models
from saccade.cli import main
from serve.serving import picture
from support import kills
from support.asking import say
from support.programs import start
from support.toy import build_toy

RECORDS = 11
PLAN = "vskip(layers=0-3)"


@pytest.fixture(scope="module")
def toy():
    return build_toy()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Questions with a picture, with two, and without; one of them names a picture that is none."""
    folder = tmp_path_factory.mktemp("records")
    rows = []
    for number in range(RECORDS):
        names = [f"{number}-{place}.png" for place in range(number % 3)]
        for place, name in enumerate(names):
            picture(number + 100 * place).save(folder / name)
        question = f"is the {' '.join(('red', 'blue', 'ring')[: 1 + number % 3])} ?"
        rows.append({"id": f"q{number}", "images": names, "question": question})
    (folder / "7-0.png").write_bytes(b"no picture")
    path = folder / "big.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def want(toy, data):
    """The answer of every record, asked alone under the plan; None of the one that cannot be."""
    from saccade.engine import apply
    from saccade.inputs.data import read_jsonl

    found = {}
    with apply(toy.model, PLAN):
        for entry in read_jsonl(data):
            found[entry.id] = None if entry.id == "q7" else say(toy, entry.load(), 3)
    return found


@pytest.fixture
def job(toy, data, tmp_path, monkeypatch):
    """The command on the toy in this process, with answers in a folder of its own."""
    monkeypatch.setattr(models, "open_as", lambda name, opening: toy)

    def run(*more, out=tmp_path / "answers") -> int:
        words = ("batch", "somebody/toy", "--data", data, "--plan", PLAN, "--out", out, "--shard", 3)
        return main([*map(str, (*words, "--batch", 2, "--max-new-tokens", 3, "--device", "cpu", *more))])

    return run


def answers(folder):
    """Records of all files in order."""
    return [json.loads(line) for path in sorted(folder.glob("part-*.jsonl")) for line in path.open()]


def check(folder, want):
    found = answers(folder)
    assert [one["id"] for one in found] == list(want), "every record once, in order"
    for one in found:
        assert one.get("answer") == want[one["id"]]
    assert "7-0.png" in found[7]["error"]
    assert sorted(path.name for path in folder.iterdir()) == [
        "batch.json", *(f"part-{n:05d}-of-00004.jsonl" for n in range(4))
    ]  # fmt: skip


def test_every_record_is_answered_as_it_would_be_alone(job, want, tmp_path, capsys):
    assert job("--json", "-") == 1, "one could not be asked"
    told = json.loads(capsys.readouterr().out)
    assert (told["records"], told["answered"], told["errors"], told["shards"]) == (RECORDS, RECORDS - 1, 1, 4)
    check(tmp_path / "answers", want)


def test_what_is_answered_is_not_asked_again(job, want, tmp_path, monkeypatch):
    from saccade.batch import shards

    asked = []
    real = shards.generate

    def generate(loaded, inputs, plan, tokens):
        asked.append(len(inputs["input_ids"]))
        return real(loaded, inputs, plan, tokens)

    monkeypatch.setattr(shards, "generate", generate)
    job()
    assert sum(asked) == RECORDS - 1
    job()
    assert sum(asked) == RECORDS - 1
    (tmp_path / "answers" / "part-00002-of-00004.jsonl").unlink()
    job()
    assert sum(asked) == RECORDS - 1 + 2
    check(tmp_path / "answers", want)


@pytest.mark.parametrize("other", [("--max-new-tokens", 2), ("--shard", 4), ("--plan", "vtw(layer=1)")])
def test_a_folder_of_another_job_is_refused(other, job, tmp_path, capsys):
    job()
    before = answers(tmp_path / "answers")
    capsys.readouterr()
    assert job(*other) == 2
    assert "another job" in capsys.readouterr().err and answers(tmp_path / "answers") == before


def test_a_folder_of_unknown_answers_is_refused(job, tmp_path, capsys):
    (tmp_path / "answers").mkdir()
    (tmp_path / "answers" / "part-0.jsonl").write_text("")
    assert job() == 2 and "nothing is known" in capsys.readouterr().err


def test_a_job_that_is_killed_again_and_again_ends_as_one_that_never_was(job, want, tmp_path):
    rng, out = random.Random(0), tmp_path / "killed"
    killed, code = 0, kills.KILLED
    kept: set[str] = set()
    while code == kills.KILLED:
        # The last one runs to its end.
        code = kills.forked(lambda: job(out=out), rng.randrange(1, 12) if killed < 12 else 0)
        killed += code == kills.KILLED
        now = {line for path in out.glob("part-*.jsonl") for line in path.read_text().splitlines()}
        assert kept <= now, "what was finished stays"
        kept = now
    assert killed == 12 and code == 1
    check(out, want)


def descendants(pid: int) -> list[int]:
    """Processes that a process has started and that still run."""
    found = []
    for path in os.listdir("/proc"):
        if path.isdigit():
            try:
                with open(f"/proc/{path}/stat", encoding="utf-8") as stream:
                    _, _, rest = stream.read().rpartition(")")
            except OSError:
                continue
            state, parent = rest.split()[:2]
            if int(parent) == pid and state != "Z":
                found.append(int(path))
    return found


@pytest.mark.e2e
def test_killed_workers_and_a_killed_driver_lose_nothing(toy_folder, data, want, tmp_path):
    out = tmp_path / "answers"
    words = ("-m", "saccade", "batch", toy_folder, "--data", data, "--plan", PLAN, "--out", out, "--shard", 3)
    words = (*words, "--batch", 1, "--max-new-tokens", 3, "--device", "cpu", "--processes", 2)

    def wait(true):
        limit = time.monotonic() + 200
        while not true():
            assert time.monotonic() < limit
            time.sleep(0.01)

    first = start(*words, cwd=tmp_path)
    wait(lambda: any(out.glob("part-*")))
    workers = descendants(first.pid)
    os.kill(first.pid, signal.SIGKILL)
    assert first.ended().code == -signal.SIGKILL
    # Nobody waits for them, so they end; what they wrote by then stays.
    wait(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in workers))
    second = start(*words, cwd=tmp_path)
    wait(lambda: len(descendants(second.pid)) >= 2)
    for pid in descendants(second.pid)[:1]:
        os.kill(pid, signal.SIGKILL)
    left = second.ended()
    assert left.code in (1, 2), left.err
    if left.code == 2:
        assert "repeat the command" in left.err
        assert start(*words, cwd=tmp_path).ended().code == 1
    check(out, want)
