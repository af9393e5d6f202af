"""Files are written whole or not at all, whatever interrupts the writing."""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saccade import files


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
