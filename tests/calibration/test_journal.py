"""What an interrupted run left is read back, torn lines and other settings included."""

from __future__ import annotations

import pytest

from saccade.calibration.journal import Journal

SETTINGS = {"score": "vig", "samples": ["a", "b"], "share": 0.1}


def test_results_come_back_exactly(tmp_path):
    path = tmp_path / "deep" / "plan.json.partial.jsonl"
    entry = {"sample": "a", "values": [0.1, 1 / 3, 1e-17], "visual": 4}
    Journal(path, SETTINGS).append(entry)
    assert Journal(path, SETTINGS).entries == {"a": entry}


@pytest.mark.parametrize(
    "torn", [b'{"sample": "b", "val', b'{"sample": "b", "values": [1]}', b"\xff\xfe\n", b"[1]\n"]
)
def test_half_a_line_is_dropped_and_written_over(tmp_path, torn):
    path = tmp_path / "j.jsonl"
    Journal(path, SETTINGS).append({"sample": "a", "values": [1.0]})
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    again = Journal(path, SETTINGS)
    assert list(again.entries) == ["a"] and path.read_bytes() == whole
    again.append({"sample": "b", "values": [2.0]})
    assert list(Journal(path, SETTINGS).entries) == ["a", "b"]


@pytest.mark.parametrize("start", [b"", b'{"settings": {"sco'])
def test_a_file_without_a_whole_header_starts_anew(tmp_path, start):
    path = tmp_path / "j.jsonl"
    path.write_bytes(start)
    Journal(path, SETTINGS).append({"sample": "a"})
    assert list(Journal(path, SETTINGS).entries) == ["a"]


def test_results_of_other_settings_are_neither_mixed_in_nor_lost(tmp_path):
    path = tmp_path / "j.jsonl"
    Journal(path, SETTINGS).append({"sample": "a"})
    kept = path.read_bytes()
    with pytest.raises(ValueError, match=r"other settings \(samples, score\)"):
        Journal(path, SETTINGS | {"score": "lc", "samples": ["c"]})
    assert path.read_bytes() == kept


def test_removing_leaves_no_file_and_no_path_means_no_file(tmp_path):
    path = tmp_path / "j.jsonl"
    journal = Journal(path, SETTINGS)
    journal.remove()
    journal.remove()
    assert not path.exists()
    nowhere = Journal(None, SETTINGS)
    nowhere.append({"sample": "a"})
    nowhere.remove()
    assert list(nowhere.entries) == ["a"]
