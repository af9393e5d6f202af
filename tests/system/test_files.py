"""Files and folders are written whole or not at all, whatever interrupts it; a lock has one holder."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saccade.system import files
from support.programs import environment


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda x: st.lists(x) | st.dictionaries(st.text(), x),
    )
)
def test_json_comes_back_as_it_was(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("json") / "x.json"
    assert files.write_json(path, data) == path
    assert files.read_json(path) == data


def test_folders_are_made_and_files_replaced(tmp_path):
    path = tmp_path / "a" / "b" / "x.png"
    files.write_bytes(path, b"old")
    assert files.write_bytes(path, b"new").read_bytes() == b"new"
    assert files.write_text(path, "grün").read_bytes() == "grün".encode()
    assert os.listdir(path.parent) == ["x.png"]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_what_stops_the_writing_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, error):
    path = files.write_bytes(tmp_path / "x.png", b"old")

    def stop(*_):
        raise error

    monkeypatch.setattr(os, "replace", stop)
    with pytest.raises(type(error)):
        files.write_bytes(path, b"new")
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["x.png"]


def test_what_json_cannot_hold_leaves_no_file(tmp_path):
    with pytest.raises(TypeError):
        files.write_json(tmp_path / "x.json", {"a": object()})
    assert os.listdir(tmp_path) == []


def test_errors_name_the_file(tmp_path):
    broken = tmp_path / "broken.json"
    broken.write_text(json.dumps([1, 2])[:-1], encoding="utf-8")
    for path, words in (
        (tmp_path / "none.json", "no such file"),
        (tmp_path, "is a folder"),
        (broken, "is not JSON"),
    ):
        with pytest.raises(ValueError, match=words) as raised:
            files.read_json(path)
        assert str(path) in str(raised.value)


def fill(folder, word: str) -> None:
    """Writes two files, one of them private and deeper."""
    (folder / "deep").mkdir()
    (folder / "a.txt").write_text(word)
    (folder / "deep" / "b.txt").write_text(word)
    (folder / "deep" / "b.txt").chmod(0o600)


def held(folder) -> dict[str, str]:
    """What a folder holds."""
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


def both(word: str) -> dict[str, str]:
    return {"a.txt": word, "deep/b.txt": word}


def test_a_folder_is_made_and_replaced(tmp_path):
    path = tmp_path / "on" / "the way" / "made"
    for word in ("old", "new"):
        with files.write_folder(path) as fresh:
            assert os.listdir(fresh) == []
            fill(fresh, word)
            assert not path.exists() if word == "old" else held(path) == both("old")
        assert held(path) == both(word) and os.listdir(path.parent) == ["made"]


@pytest.mark.parametrize(("mask", "folders", "texts"), [(0o022, 0o755, 0o644), (0o077, 0o700, 0o600)])
def test_a_folder_may_be_read_by_whom_new_files_may_be_read(tmp_path, mask, folders, texts):
    path, before = tmp_path / "made", os.umask(mask)
    try:
        with files.write_folder(path) as fresh:
            fill(fresh, "new")
    finally:
        os.umask(before)
    assert {p.stat().st_mode & 0o777 for p in (path, path / "deep")} == {folders}
    assert {p.stat().st_mode & 0o777 for p in (path / "a.txt", path / "deep" / "b.txt")} == {texts}


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
@pytest.mark.parametrize("exists", [True, False])
def test_a_folder_that_fails_on_the_way_leaves_the_old_one_and_nothing_else(tmp_path, error, exists):
    if exists:
        with files.write_folder(tmp_path / "made") as fresh:
            fill(fresh, "old")
    with pytest.raises(type(error)), files.write_folder(tmp_path / "made") as fresh:
        fill(fresh, "new")
        raise error
    assert held(tmp_path) == {f"made/{name}": "old" for name in both("") if exists}
    assert os.listdir(tmp_path) == ["made"] * exists


@pytest.mark.parametrize("number", [0, 1])
def test_a_folder_that_cannot_take_its_place_leaves_the_old_one(tmp_path, monkeypatch, number):
    with files.write_folder(tmp_path / "made") as fresh:
        fill(fresh, "old")
    calls = []

    def replace(*paths, real=os.replace):
        calls.append(paths)
        if len(calls) == number + 1:
            raise OSError("no")
        real(*paths)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match="no"), files.write_folder(tmp_path / "made") as fresh:
        fill(fresh, "new")
    assert held(tmp_path / "made") == both("old") and os.listdir(tmp_path) == ["made"]


def test_a_file_is_not_replaced_by_a_folder_and_a_link_is_followed(tmp_path):
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(ValueError, match="it is a file"), files.write_folder(tmp_path / "mine"):
        pass
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    with files.write_folder(tmp_path / "link") as fresh:
        fill(fresh, "new")
    assert (tmp_path / "link").is_symlink() and held(tmp_path / "there") == both("new")
    assert sorted(os.listdir(tmp_path)) == ["link", "mine", "there"]


def write_and_hang(path, ready, replaces: int) -> None:
    """Writes a folder and hangs at its end: in the block, or when so many folders have been moved."""
    moved = []

    def replace(*paths, real=os.replace):
        if len(moved) == replaces:
            ready.set()
            signal.pause()
        real(*paths)
        moved.append(paths)

    os.replace = replace
    with files.write_folder(path) as fresh:
        fill(fresh, "lost")


def started(target, *parts):
    """A process that has come to where it hangs."""
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=target, args=(parts[0], ready, *parts[1:]))
    process.start()
    assert ready.wait(20)
    return process


def kill(process) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.join()


@pytest.mark.parametrize("replaces", [0, 1])
def test_what_a_killed_writer_left_goes_and_the_old_folder_is_kept(tmp_path, replaces):
    path = tmp_path / "made"
    with files.write_folder(path) as fresh:
        fill(fresh, "old")
    kill(started(write_and_hang, path, replaces))
    assert len(os.listdir(tmp_path)) > 1 and path.exists() == (replaces == 0)
    with pytest.raises(OSError, match="disk full"), files.write_folder(path):
        raise OSError("disk full")
    assert held(path) == both("old") and os.listdir(tmp_path) == ["made"]


def test_a_writer_that_lives_and_other_folders_are_left_alone(tmp_path):
    lives = started(write_and_hang, tmp_path / "made", 0)
    kill(started(write_and_hang, tmp_path / "made.too", 0))
    try:
        before = sorted(os.listdir(tmp_path))
        with files.write_folder(tmp_path / "made") as fresh:
            fill(fresh, "new")
        assert sorted(os.listdir(tmp_path)) == sorted([*before, "made"])
    finally:
        kill(lives)
    assert held(tmp_path / "made") == both("new")


def test_a_lock_has_one_holder_and_leaves_nothing(tmp_path):
    path = tmp_path / "deep" / "x.lock"
    for _ in range(2):
        with files.locked(path) as first, files.locked(path) as second:
            assert first and not second and path.exists()
    assert os.listdir(path.parent) == []


def count(folder, times: int) -> None:
    """Adds one to a number in a file, whenever the lock can be had."""
    while times:
        with files.locked(folder / "x.lock") as mine:
            if mine:
                number = int((folder / "number").read_text())
                (folder / "number").write_text(str(number + 1))
                times -= 1


def test_a_lock_that_is_taken_again_and_again_never_has_two_holders(tmp_path):
    (tmp_path / "number").write_text("0")
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=count, args=(tmp_path, 100)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert (tmp_path / "number").read_text() == "300"


def test_where_nothing_can_be_locked_folders_are_written_and_locks_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with files.write_folder(tmp_path / "made") as fresh:
        fill(fresh, "new")
    with pytest.raises(ValueError, match="cannot be locked"), files.locked(tmp_path / "x.lock"):
        pass
    assert os.listdir(tmp_path) == ["made"]


@pytest.mark.e2e
def test_the_package_is_imported_where_nothing_can_be_locked():
    code = "import sys; sys.modules['fcntl'] = None; import saccade, saccade.system.files"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), timeout=120)
    assert done.returncode == 0


def test_text_is_read_without_its_byte_order_mark_and_errors_say_what_was_wanted(tmp_path):
    (tmp_path / "x.txt").write_bytes(b"\xef\xbb\xbfgr\xc3\xbcn")
    assert files.read_text(tmp_path / "x.txt") == "grün"
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name, words in (
        ("none", "no such file"),
        (".", "is a folder, not a list of words"),
        ("binary", "binary is not UTF-8 text"),
    ):
        with pytest.raises(ValueError, match=words):
            files.read_text(tmp_path / name, "a list of words")


def write_a_file_and_hang(path, ready) -> None:
    """Writes a file and hangs before it takes its place."""

    def hang(*_) -> None:
        ready.set()
        signal.pause()

    os.replace = hang
    files.write_text(path, "lost")


def test_what_a_killed_writer_of_a_file_left_goes_and_what_a_living_one_writes_stays(tmp_path):
    path = tmp_path / "x.json"
    lives = started(write_a_file_and_hang, path)
    try:
        kill(started(write_a_file_and_hang, path))
        (tmp_path / f".x.json.{'0' * 32}.part").touch()
        (tmp_path / ".x.json.mine.part").touch()
        assert len(os.listdir(tmp_path)) == 4
        files.write_text(path, "new")
        assert path.read_text() == "new" and len(os.listdir(tmp_path)) == 3
    finally:
        kill(lives)
    files.write_text(path, "newer")
    assert sorted(os.listdir(tmp_path)) == [".x.json.mine.part", "x.json"]


def test_links_are_followed_and_devices_written_to(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link.json").symlink_to("there/real.json")
    assert files.write_text(tmp_path / "link.json", "new") == tmp_path / "link.json"
    assert (tmp_path / "link.json").is_symlink() and (tmp_path / "there" / "real.json").read_text() == "new"
    files.write_text("/dev/null", "nothing")
    assert files.is_special(files.Path("/dev/null"))


def test_a_full_disk_names_the_file_and_leaves_nothing(tmp_path, monkeypatch):
    with pytest.raises(OSError, match="No space left on device") as caught:
        files.write_text("/dev/full", "much")
    assert caught.value.filename == "/dev/full"

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    path = tmp_path / "a" / "b" / "x.json"
    with pytest.raises(OSError, match="No space left") as caught:
        files.write_json(path, {})
    assert caught.value.filename == str(path) and os.listdir(tmp_path) == []
    with pytest.raises(OSError, match="No space left") as caught, files.write_folder(tmp_path / "c" / "d"):
        full(0)
    assert caught.value.filename == str(tmp_path / "c" / "d") and os.listdir(tmp_path) == []


def test_where_nothing_may_be_written_the_file_is_named(tmp_path, monkeypatch):
    def refused(path, *args, **kwargs):
        raise OSError(30, "Read-only file system", str(path))

    for write in (
        lambda path: files.write_text(path, "x"),
        lambda path: files.write_folder(path).__enter__(),
    ):
        monkeypatch.setattr(files.Path, "mkdir", refused)
        with pytest.raises(OSError, match="Read-only file system") as caught:
            write(tmp_path / "new" / "x.json")
        assert caught.value.filename == str(tmp_path / "new" / "x.json")
        monkeypatch.undo()
    assert os.listdir(tmp_path) == []


def test_errors_of_libraries_are_one_line():
    from safetensors import SafetensorError

    for error in (
        OSError(28, "No space left on device"),
        RuntimeError("zip\n writer"),
        SafetensorError("full"),
    ):
        said = pytest.raises(ValueError, match=r"^cannot write the model: .*; make room$")
        with said, files.disk_trouble("the model", "make room"):
            raise error
    with pytest.raises(OSError, match="full"), files.disk_trouble("the model", "make room", system=False):
        raise OSError(28, "disk full")
