"""A file of questions in shards: every record once, whoever is killed whenever."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import threading
import time
from functools import partial, wraps
from pathlib import Path

import numpy as np
import pytest
import torch

from saccade import models
from saccade.batch import shards
from saccade.batch.cluster import placed
from saccade.batch.files_asked import stamp_of, still
from saccade.batch.job import BatchJob
from saccade.batch.pipeline import AnswerRows
from saccade.cli import main
from saccade.engine import apply
from saccade.inputs.data import read_jsonl
from saccade.opening.settings import Opening
from saccade.system import processes
from saccade.system.locks import locked
from serve.serving import picture
from support import kills
from support.asking import say
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


def check(folder, want, failed="q7"):
    found = answers(folder)
    assert [one["id"] for one in found] == list(want), "every record once, in order"
    for one in found:
        assert one.get("answer") == want[one["id"]]
    assert [one["id"] for one in found if "7-0.png" in one.get("error", "")] == ([failed] if failed else [])
    left = sorted(path.name for path in folder.iterdir() if not path.name.endswith((".lock", ".files.json")))
    assert left == ["batch.json", *(f"part-{n:05d}-of-00004.jsonl" for n in range(4))]


def test_every_record_is_answered_as_it_would_be_alone(job, want, tmp_path, capsys):
    assert job("--json", "-") == 1, "one could not be asked"
    told = json.loads(capsys.readouterr().out)
    assert (told["records"], told["answered"], told["errors"], told["shards"]) == (RECORDS, RECORDS - 1, 1, 4)
    check(tmp_path / "answers", want)


def test_what_is_answered_is_not_asked_again(job, want, tmp_path, monkeypatch):
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


def own(data, folder):
    """The questions and their pictures in a folder that a test may change."""
    shutil.copytree(data.parent, folder)
    return folder / data.name


def test_what_could_not_be_asked_is_asked_again(job, data, want, toy, tmp_path, monkeypatch):
    mine = own(data, tmp_path / "mine")
    asked = []
    real = shards.answer_records
    monkeypatch.setattr(
        shards, "answer_records", lambda *given: asked.extend(one.id for one in given[3]) or real(*given)
    )
    assert job("--data", mine) == 1
    asked.clear()
    picture(7).save(mine.parent / "7-0.png")
    assert job("--data", mine) == 0
    assert asked == ["q7"]
    with apply(toy.model, PLAN):
        mended = say(toy, read_jsonl(mine)[7].load(), 3)
    check(tmp_path / "answers", want | {"q7": mended}, failed=None)
    asked.clear()
    assert job("--data", mine) == 0 and not asked


def test_answers_about_a_picture_that_has_changed_are_given_again(job, data, want, toy, tmp_path, capsys):
    mine = own(data, tmp_path / "mine")
    job("--data", mine)
    picture(999).save(mine.parent / "4-0.png")
    for name in ("5-0.png", "5-1.png"):
        os.utime(mine.parent / name)  # the time alone: its bytes are the same
    capsys.readouterr()
    job("--data", mine)
    assert "2 records could not be asked before, or their files have changed" in capsys.readouterr().err
    with apply(toy.model, PLAN):
        anew = say(toy, read_jsonl(mine)[4].load(), 3)
    check(tmp_path / "answers", want | {"q4": anew})
    stamps = json.loads((tmp_path / "answers" / ".part-00001.files.json").read_text())
    assert set(stamps) == {"q3", "q4", "q5"} and stamps["q3"] == []


def test_a_pipe_is_not_read_to_be_stamped(tmp_path):
    os.mkfifo(tmp_path / "clip.mp4")
    (tmp_path / "one.jsonl").write_text('{"question": "x", "video": "clip.mp4"}')
    [record] = read_jsonl(tmp_path / "one.jsonl")
    assert still(record, stamp_of(record))


def test_what_was_kept_of_a_shard_about_another_picture_is_not_used(toy, data, tmp_path):
    mine = own(data, tmp_path / "mine")
    job = BatchJob("toy", Opening(), mine, PLAN, tmp_path / "out", tokens=3, shard=6, batch=2)
    job.claim()
    times = iter(range(2))

    def said(answer, records):
        if answer == "before":
            next(times)
        return [{"id": one.id, "task": "", "answer": answer} for one in records]

    with pytest.raises(StopIteration):
        shards.answer_shard(job, 0, partial(said, "before"))
    picture(999).save(mine.parent / "1-0.png")
    shards.answer_shard(job, 0, partial(said, "after"))
    told = {one["id"]: one["answer"] for one in map(json.loads, job.answers(0).open())}
    after = [name for name, answer in told.items() if answer == "after"]
    assert list(told) == [f"q{n}" for n in range(6)] and after == ["q1", "q4", "q5"]


def test_records_of_a_pipe_are_refused_for_they_are_gone_once_read(job, data, tmp_path, capsys):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.open("wb").write(data.read_bytes()), daemon=True)
    writer.start()
    assert job("--data", pipe) == 2 and f"{pipe} is no file" in capsys.readouterr().err
    assert not (tmp_path / "answers").exists()


def test_text_may_hold_what_others_take_for_the_end_of_a_line(job, tmp_path, capsys):
    ids = ["a\u2028b", "c\x85d", "e\u2029\x1c"]
    mine = tmp_path / "mine.jsonl"
    mine.write_text("".join(json.dumps({"id": one, "question": "red ?"}) + "\n" for one in ids))
    for _ in range(2):
        assert job("--data", mine) == 0, capsys.readouterr().err
    assert [one["id"] for one in answers(tmp_path / "answers")] == ids


@pytest.mark.parametrize("held", ['{"id": "q3", "ans', "[]\n", "{}\n", "\udcff"])
def test_a_file_of_answers_that_holds_something_else_is_named(held, job, want, tmp_path, capsys):
    job()
    place = tmp_path / "answers" / "part-00001-of-00004.jsonl"
    place.write_bytes(held.encode(errors="surrogateescape"))
    capsys.readouterr()
    assert job() == 2
    told = capsys.readouterr().err
    assert place.name in told and "take it away" in told
    place.unlink()
    assert job() == 1
    check(tmp_path / "answers", want)


def test_a_record_that_the_model_has_no_logits_for_holds_up_no_other(job, toy, want, tmp_path, monkeypatch):
    """As half precision has it of one picture in many."""
    mark = toy.processor.tokenizer.convert_tokens_to_ids("ring")
    real = toy.model.forward

    @wraps(real)
    def forward(*given, input_ids=None, **named):
        out = real(*given, input_ids=input_ids, **named)
        if input_ids is not None and input_ids.shape[1] > 1:
            out.logits[(input_ids == mark).any(-1)] = torch.nan
        return out

    monkeypatch.setattr(toy.model, "forward", forward)
    assert job() == 1
    found = {one["id"]: one for one in answers(tmp_path / "answers")}
    broken = [name for name, one in found.items() if "not finite" in one.get("error", "")]
    assert broken == ["q2", "q5", "q8"] and list(found) == list(want)
    for name, one in found.items():
        assert name in broken or one.get("answer") == want[name]


def test_what_is_noted_of_the_data_is_of_the_records_that_are_answered(tmp_path):
    mine = tmp_path / "mine.jsonl"
    mine.write_text('{"question": "red ?"}\n')
    one = BatchJob("toy", Opening(), mine, None, tmp_path / "out")
    before = one.settings()
    mine.write_text('{"question": "blue ?"}\n')
    assert one.settings() == before and one.records(0)[0].question == "red ?"
    with pytest.raises(ValueError, match="other data"):
        one.claim()
        one.answers(0).touch()
        BatchJob("toy", Opening(), mine, None, tmp_path / "out").claim()


@pytest.mark.parametrize("other", [("--max-new-tokens", 2), ("--shard", 4), ("--plan", "vtw(layer=1)")])
def test_a_folder_of_another_job_is_refused(other, job, tmp_path, capsys):
    job()
    before = answers(tmp_path / "answers")
    capsys.readouterr()
    assert job(*other) == 2
    assert "another job" in capsys.readouterr().err and answers(tmp_path / "answers") == before


def test_a_job_that_ended_before_it_answered_anything_holds_up_no_other(job, want, tmp_path, capsys):
    assert job("--plan", "vskip(budget=1)") == 2, "its layers are not known"
    out = tmp_path / "answers"
    (out / ".part-00000.lock").touch()  # as a killed process leaves it
    assert job() == 1 and "another job" not in capsys.readouterr().err
    check(out, want)


def test_a_folder_is_not_taken_from_a_job_that_is_about_to_answer(data, tmp_path):
    one, other = (BatchJob("toy", Opening(), data, None, tmp_path / "out", tokens) for tokens in (3, 4))
    one.claim()
    one.claim(weights="a")
    with locked(one.lock(0)), pytest.raises(ValueError, match="other tokens"):
        other.claim()
    # It has nothing in hand: whoever comes goes on, with other weights too, and it is told before it answers.
    other.claim()
    other.claim(weights="b")
    with pytest.raises(ValueError, match="other tokens, weights"):
        one.claim(weights="a")


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


@pytest.fixture
def slowly(monkeypatch):
    """Processes that are forks, which share the model, and work that takes long enough to be killed in."""
    answered, context = shards.generate, multiprocessing.get_context

    def generate(*given):
        time.sleep(0.1)
        return answered(*given)

    monkeypatch.setattr(shards, "generate", generate)
    monkeypatch.setattr(processes, "WAIT", 0.05)
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: context("fork"))


def test_a_killed_driver_loses_nothing(job, want, tmp_path, slowly):
    out = tmp_path / "killed"
    kills.sigkilled(lambda: job("--processes", 2, out=out), lambda: any(out.glob("part-*-of-*.jsonl")))
    kept = answers(out)
    # Its processes end by themselves, and meanwhile do what no other then does.
    assert kills.forked(lambda: job("--processes", 2, out=out)) == 1
    check(out, want)
    assert kept and all(one in answers(out) for one in kept)


def test_what_a_killed_process_has_left_another_takes(job, want, tmp_path, slowly, capfd):
    out, killed = tmp_path / "killed", []

    def kill_one():
        limit = time.monotonic() + 60
        while not any(out.glob("*.partial.jsonl")) and time.monotonic() < limit:
            time.sleep(0.005)
        for process in multiprocessing.active_children()[:1]:
            os.kill(process.pid, signal.SIGKILL)
            killed.append(process.pid)

    killer = threading.Thread(target=kill_one)
    killer.start()
    assert job("--processes", 2, out=out) == 1
    killer.join()
    assert killed and "the others have done its part" in capfd.readouterr().err
    check(out, want)


def test_all_killed_says_how_to_go_on(job, want, tmp_path, slowly, capfd):
    out = tmp_path / "killed"

    def kill_all():
        while not any(out.glob("*.partial.jsonl")):
            time.sleep(0.005)
        for process in multiprocessing.active_children():
            os.kill(process.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_all)
    killer.start()
    assert job("--processes", 2, out=out) == 2
    killer.join()
    assert "repeat the command" in capfd.readouterr().err
    assert job(out=out) == 1
    check(out, want)


def test_a_cluster_without_ray_is_one_line(job, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert job("--ray", "auto") == 2
    assert "pip install 'ray[data]'" in capsys.readouterr().err


def test_workers_elsewhere_get_whole_paths_and_names_as_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("model", "adapter"):
        (tmp_path / name).mkdir()
    (tmp_path / "plan.json").write_text("{}")
    opening = Opening.of(adapter="adapter")
    here = placed(BatchJob("model", opening, Path("q.jsonl"), "plan.json", Path("out")))
    assert (here.model, here.plan) == (str(tmp_path / "model"), str(tmp_path / "plan.json"))
    assert (here.data, here.out) == (tmp_path / "q.jsonl", tmp_path / "out")
    assert here.opening.adapter == str(tmp_path / "adapter")
    # A folder that is called as an embedded model is, and a spec longer than any file's name, are neither.
    (tmp_path / "glance").mkdir()
    spec = f"vskip(layers={','.join('0' * 400)})"
    kept = placed(BatchJob("glance", Opening(), Path("q.jsonl"), spec, Path("out")))
    assert (kept.model, kept.plan) == ("glance", spec)
    named = placed(BatchJob("somebody/toy", Opening(), Path("q.jsonl"), PLAN, Path("out")))
    assert (named.model, named.plan, named.opening.adapter) == ("somebody/toy", PLAN, None)


def test_workers_elsewhere_work_at_the_job_that_was_claimed(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("model", "adapter"):
        (tmp_path / name).mkdir()
    mine = BatchJob("model", Opening.of(adapter="adapter"), data, PLAN, Path("out"))
    mine.claim()
    there = placed(mine)
    there.claim(weights="a")
    assert there.settings() == mine.settings()
    with pytest.raises(ValueError, match="other weights"):
        placed(there).claim(weights="b")


def test_rows_of_a_pipeline_are_answered_as_records_of_a_file(toy, data, want, monkeypatch):
    monkeypatch.setattr(models, "open_as", lambda name, opening: toy)
    step = AnswerRows("somebody/toy", PLAN, data.parent, tokens=3)
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    # Columns as Ray Data hands them over, with nothing where a row has nothing.
    columns = {key: np.array([row.get(key) for row in rows], dtype=object) for key in rows[0]}
    found = step(columns)
    assert found["id"] == list(want) and found["answer"] == list(want.values())
    assert [bool(error) for error in found["error"]] == [name == "q7" for name in want]
    columns["id"] = np.array(["same"] * len(rows), dtype=object)
    assert step(columns)["answer"] == list(want.values())
    with pytest.raises(ValueError, match="a column 'answer' already, which would be lost"):
        step(columns | {"answer": columns["id"]})
    own = AnswerRows("somebody/toy", PLAN, data.parent, tokens=3, column="said")
    kept = own(columns | {"answer": columns["id"]})
    assert kept["said"] == list(want.values()) and set(kept["answer"]) == {"same"}
    del columns["id"]
    assert all("'id' is missing" in error for error in step(columns)["error"])
