"""Who works on a file or folder has it alone, others are told who, and a lock dies with its process."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
import warnings

import pytest
import yaml

from saccade.system import locks
from saccade.system.files import alone
from saccade.training import train
from training.tiny import data_set, model_folder, settings


def hold(path, folder: bool, ready) -> None:
    """Holds it until it is killed."""
    sys.argv = ["saccade", "eval", "a model", "--json", "x.json"]
    with alone(path, folder=folder):
        ready.set()
        signal.pause()


@pytest.fixture
def holder():
    """Starts processes that hold something."""
    context, started = multiprocessing.get_context("fork"), []

    def start(path, folder: bool = False):
        ready = context.Event()
        process = context.Process(target=hold, args=(path, folder, ready))
        process.start()
        started.append(process)
        assert ready.wait(30)
        return process

    yield start
    for process in started:
        process.kill()
        process.join()


@pytest.mark.parametrize("folder", [True, False])
def test_who_holds_it_is_told_and_it_is_free_when_that_one_is_killed(tmp_path, holder, folder):
    path = tmp_path / "on" / "the way"
    process = holder(path, folder)
    with pytest.raises(ValueError) as caught, alone(path, folder=folder):
        pass
    said = str(caught.value)
    assert said.startswith(f"{path} is in use by process {process.pid} since 2")
    assert "(saccade eval 'a model' --json x.json)" in said and "wait for its end" in said
    process.kill()
    process.join()
    refused = pytest.raises(ValueError, match="by this very command")
    with alone(path, folder=folder), refused, alone(path, folder=folder):
        pass
    # The killed one left its lock and the folder that it had made; ours went.
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == []


def test_what_was_made_for_a_lock_goes_with_it_but_what_was_put_there_stays(tmp_path):
    for used in (False, True):
        with alone(tmp_path / "a" / "b", folder=True):
            if used:
                (tmp_path / "a" / "b" / "x").touch()
    assert os.listdir(tmp_path / "a" / "b") == ["x"]
    with alone(tmp_path / "c" / "d.json"):
        assert os.listdir(tmp_path / "c") == [".d.json.lock"]
    assert os.listdir(tmp_path) == ["a"]


def test_two_names_of_one_file_are_one_file(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    for folder in (True, False):
        names = ("real", "link") if folder else ("real/x", "link/x")
        one, other = (alone(tmp_path / name, folder=folder) for name in names)
        with one, pytest.raises(ValueError, match="in use"), other:
            pass


def test_devices_are_nobodys_and_a_file_is_no_folder(tmp_path):
    with alone("/dev/null"), alone("/dev/null"):
        pass
    (tmp_path / "x").touch()
    with pytest.raises(ValueError, match="x is a file, and a folder"), alone(tmp_path / "x", folder=True):
        pass


def test_a_fork_does_not_keep_the_lock_of_its_dead_parent(tmp_path):
    """Such as a worker that reads data, which ends a few seconds after its trainer was killed."""
    pipe, other = os.pipe()
    parent = os.fork()
    if parent == 0:
        with alone(tmp_path / "run", folder=True):
            child = os.fork()
            if child == 0:
                time.sleep(60)
                os._exit(0)
            os.write(other, str(child).encode())
            time.sleep(60)
        os._exit(0)
    child = int(os.read(pipe, 20))
    try:
        with (
            pytest.raises(ValueError, match=f"in use by process {parent}"),
            alone(tmp_path / "run", folder=True),
        ):
            pass
        os.kill(parent, signal.SIGKILL)
        os.waitpid(parent, 0)
        os.kill(child, 0)  # it lives
        with alone(tmp_path / "run", folder=True):
            pass
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_fork_that_leaves_the_block_takes_no_lock_away(tmp_path):
    with alone(tmp_path / "run", folder=True):
        pid = os.fork()
        if pid == 0:
            try:
                raise KeyboardInterrupt
            except KeyboardInterrupt:
                with locks.held(tmp_path / "other.lock"):
                    os._exit(0)
        os.waitpid(pid, 0)
        assert (tmp_path / "run" / ".lock").exists()


def test_where_nothing_can_be_locked_it_is_said_and_the_work_is_done(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with pytest.warns(UserWarning, match="cannot be locked"), alone(tmp_path / "x"):
        pass
    assert os.listdir(tmp_path) == []


def test_a_lock_that_tells_nothing_is_somebodys(tmp_path):
    (tmp_path / "x.lock").write_bytes(b"\xff")
    assert locks.holder(tmp_path / "x.lock") == locks.holder(tmp_path / "none") == "another process"


ROWS = '{"image": "a.png", "question": "what ?", "answer": "red"}\n'
COMMANDS = {
    "calibrate": (("calibrate", "--budget", "2", "--out", "{0}"), False),
    "eval": (("eval", "--plan", "vskip(layers=1)", "--json", "{0}"), False),
    "analyze": (("analyze", "--out", "{0}"), True),
    "explain": (("explain", "a.png", "what ?", "--plan", "vskip(layers=1)", "--output", "{0}.png"), False),
    "report": (("report", "x.json", "--out", "{0}.html"), False),
    "demo": (("demo", "--out", "{0}"), True),
    "bench": (("bench", "--json", "{0}"), False),
    "study": (("study", "budget", "--out", "{0}", "--run", "store"), False),
    "train glance": (("train", "glance", "--steps", "2", "--run", "{0}"), True),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_that_writes_says_who_holds_its_place(name, command, holder, tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save("a.png")
    words, folder = COMMANDS[name]
    words = [word.format("place") for word in words]
    target = tmp_path / {
        "explain": "place.png",
        "report": "place.html",
        "study": "place/study_budget.json",
    }.get(name, "place")
    process = holder(target, folder)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file() and p.suffix != ".lock"}
    began = time.monotonic()
    done = command(*words)
    assert done.code == 2, done.err
    (line,) = [line for line in done.err.splitlines() if line.startswith("saccade: error")]
    assert f"is in use by process {process.pid}" in line and "Traceback" not in done.err
    assert time.monotonic() - began < 60
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file() and p.suffix != ".lock"} == before


def test_two_trainings_do_not_share_a_folder(tmp_path, holder, command):
    model_folder(tmp_path / "model")
    data_set(tmp_path / "data")
    config = settings(tmp_path)
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(config.as_data()), "utf-8")
    process = holder(tmp_path / "run", True)
    for words in ((), ("--resume",)):
        done = command("train", file, *words)
        assert done.code == 2 and f"run is in use by process {process.pid}" in done.err
    assert os.listdir(tmp_path / "run") == [".lock"]
    process.kill()
    process.join()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert train(config).finished
    assert not (tmp_path / "run" / ".lock").exists()
