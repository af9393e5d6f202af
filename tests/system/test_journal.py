"""A journal gives back what was kept, keeps every run's results apart, and never loses one to another."""

from __future__ import annotations

import json
import os
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from saccade.system.journal import Journal, opened, settings_hash

SETTINGS = {"score": "vig", "samples": ["a", "b"], "share": 0.1}
OTHER = SETTINGS | {"score": "lc", "samples": ["c"]}


def keep(path, told, *entries):
    """Keeps entries as a run that is interrupted then."""
    with Journal(path) as journal:
        section = journal.section(told)
        for entry in entries:
            section.append(entry)


def kept(path, told):
    with Journal(path) as journal:
        return journal.section(told).entries


def test_results_come_back_exactly(tmp_path):
    path = tmp_path / "deep" / "plan.json.partial.jsonl"
    entry = {"sample": "a", "values": [0.1, 1 / 3, 1e-17], "visual": 4}
    keep(path, SETTINGS, entry)
    assert kept(path, SETTINGS) == [entry] and os.listdir(path.parent) == [path.name]


def test_the_file_begins_with_the_first_result(tmp_path):
    path = tmp_path / "deep" / "j.jsonl"
    with Journal(path) as journal:
        section = journal.section(SETTINGS)
        assert not path.exists()
        section.append({"sample": "a"})
        section.append({"sample": "b"})
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [{"settings": SETTINGS}, {"sample": "a"}, {"sample": "b"}]
    keep(tmp_path / "none" / "j.jsonl", SETTINGS)
    assert os.listdir(tmp_path) == ["deep"]


def test_by_a_field():
    with Journal(None) as journal:
        section = journal.section({})
        for entry in ({"sample": "a", "n": 1}, {"n": 2}, {"sample": "a", "n": 3}):
            section.append(entry)
    assert section.by("sample") == {"a": {"sample": "a", "n": 3}}


@pytest.mark.parametrize(
    "torn", [b'{"sample": "b", "val', b'{"sample": "b", "values": [1]}', b"\xff\xfe\n", b"[1]\n", b"\0" * 64]
)
def test_half_a_line_is_left_out_and_written_over(tmp_path, torn):
    path = tmp_path / "j.jsonl"
    keep(path, SETTINGS, {"sample": "a"})
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    assert kept(path, SETTINGS) == [{"sample": "a"}]
    keep(path, SETTINGS, {"sample": "b"})
    assert path.read_bytes() == whole + b'{"sample": "b"}\n'


def test_a_damaged_line_costs_that_line_alone(tmp_path):
    path = tmp_path / "j.jsonl"
    keep(path, SETTINGS, {"sample": "a"}, {"sample": "b"}, {"sample": "c"})
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], b"\0" * 10 + b"\n", lines[3]]))
    assert kept(path, SETTINGS) == [{"sample": "a"}, {"sample": "c"}]


@pytest.mark.parametrize("start", [b"", b'{"settings": {"sco'])
def test_a_file_without_a_whole_header_starts_anew(tmp_path, start):
    path = tmp_path / "j.jsonl"
    path.write_bytes(start)
    keep(path, SETTINGS, {"sample": "a"})
    assert kept(path, SETTINGS) == [{"sample": "a"}]


@pytest.mark.parametrize(
    "content", ["my notes\n", '{"question": "mine"}\n', '{"sample": "a"}\n{"settings": {}}\n']
)
def test_a_file_of_something_else_is_named_and_left_alone(tmp_path, content):
    path = tmp_path / "j.jsonl"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"j\.jsonl is in the way.*move it away"):
        Journal(path)
    assert path.read_text() == content and os.listdir(tmp_path) == ["j.jsonl"]
    with pytest.raises(ValueError, match="is a folder"):
        Journal(tmp_path)


def test_what_former_versions_wrote_is_read(tmp_path):
    """Calibrations wrote their settings, evaluations the digest of theirs."""
    path = tmp_path / "j.jsonl"
    for header in (SETTINGS, settings_hash(SETTINGS)):
        path.write_text(json.dumps({"settings": header}) + '\n{"sample": "a"}\n')
        assert kept(path, SETTINGS) == [{"sample": "a"}]


def test_a_finished_run_leaves_the_results_of_others(tmp_path):
    path = tmp_path / "j.jsonl"
    keep(path, OTHER, {"sample": "c"})
    keep(path, SETTINGS, {"sample": "a"})
    keep(path, OTHER, {"sample": "d"})
    with Journal(path) as journal:
        assert journal.section(SETTINGS).entries == [{"sample": "a"}]
        left = journal.finish()
    assert f"{path} still keeps 2 results of an interrupted run of other settings" in left
    assert kept(path, SETTINGS) == [] and kept(path, OTHER) == [{"sample": "c"}, {"sample": "d"}]
    with Journal(path) as journal:
        journal.section(OTHER).append({"sample": "e"})
        assert journal.finish() == ""
    assert os.listdir(tmp_path) == []


def test_a_run_that_failed_for_good_lets_go_of_its_section_alone(tmp_path):
    path = tmp_path / "j.jsonl"
    keep(path, OTHER, {"sample": "c"})
    with Journal(path) as journal:
        section = journal.section(SETTINGS)
        section.append({"sample": "a"})
        section.forget()
    assert kept(path, SETTINGS) == [] and kept(path, OTHER) == [{"sample": "c"}]


actions = st.lists(
    st.one_of(
        st.tuples(st.just("keep"), st.integers(0, 2), st.integers(0, 99)),
        st.tuples(st.just("tear"), st.binary(min_size=1, max_size=9).filter(lambda b: b"\n" not in b)),
        st.tuples(st.just("finish"), st.integers(0, 2)),
    ),
    max_size=12,
)


@given(actions)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_runs_of_all_settings_go_on_whatever_happens_between(tmp_path, done):
    path = tmp_path / "any.jsonl"
    path.unlink(missing_ok=True)
    want: dict[int, list[int]] = {0: [], 1: [], 2: []}
    for action in done:
        if action[0] == "keep":
            keep(path, {"run": action[1]}, {"n": action[2]})
            want[action[1]].append(action[2])
        elif action[0] == "tear" and path.exists():
            with path.open("ab") as stream:
                stream.write(action[1])
        elif action[0] == "finish":
            with Journal(path) as journal:
                journal.section({"run": action[1]})
                journal.finish()
            want[action[1]] = []
    for run, numbers in want.items():
        assert [entry["n"] for entry in kept(path, {"run": run})] == numbers


def test_a_kill_within_a_line_costs_that_line_at_most(tmp_path):
    path = tmp_path / "j.jsonl"
    entries = [{"sample": str(n), "text": "x" * n} for n in range(8)]
    keep(path, SETTINGS, *entries)
    whole = path.read_bytes()
    for end in random.Random(0).sample(range(len(whole)), 20):
        path.write_bytes(whole[:end])
        had = kept(path, SETTINGS)
        assert had == entries[: len(had)] and len(had) >= whole[:end].count(b"\n") - 1
        keep(path, SETTINGS, *entries[len(had) :])
        assert path.read_bytes() == whole


def test_one_process_at_a_time(tmp_path):
    path = tmp_path / "j.jsonl"
    with Journal(path), pytest.raises(ValueError, match=r"j\.jsonl is in use by this very command"):
        Journal(path)
    with Journal(path) as mine, opened(mine) as same, opened(None) as none:
        assert same is mine and none.path is None
    with opened(path) as own:
        own.section(SETTINGS).append({"sample": "a"})
    assert kept(path, SETTINGS) == [{"sample": "a"}] and os.listdir(tmp_path) == ["j.jsonl"]


def test_a_full_disk_is_named_and_what_was_kept_stays(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "j.jsonl"
    keep(path, SETTINGS, {"sample": "a"})
    before = path.read_bytes()

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for target, left in ((path, before), (tmp_path / "new" / "j.jsonl", None)):
        with pytest.raises(OSError, match="No space left on device") as caught:
            keep(target, SETTINGS, {"sample": "b"})
        assert caught.value.filename == str(target)
        assert (target.read_bytes() if target.exists() else None) == left
    assert os.listdir(tmp_path) == ["deep"] and os.listdir(path.parent) == ["j.jsonl"]
    monkeypatch.undo()
    keep(path, SETTINGS, {"sample": "b"})
    assert kept(path, SETTINGS) == [{"sample": "a"}, {"sample": "b"}]


def test_what_cannot_be_read_back_keeps_nothing():
    with Journal("/dev/null") as journal:
        journal.section(SETTINGS).append({"sample": "a"})
        assert journal.path is None and journal.finish() == ""
