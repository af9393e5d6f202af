"""A run that ends before its first result leaves no journal, and the header of one blocks nobody."""

from __future__ import annotations

import json

import pytest

from saccade.calibration.journal import Journal

SETTINGS = {"score": "vig"}


def test_the_file_begins_with_the_first_result(tmp_path):
    path = tmp_path / "deep" / "j.jsonl"
    journal = Journal(path, SETTINGS)
    assert not path.parent.exists()
    journal.append({"sample": "a"})
    journal.append({"sample": "b"})
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [{"settings": SETTINGS}, {"sample": "a"}, {"sample": "b"}]


@pytest.mark.parametrize("settings", [SETTINGS, {"score": "lc"}])
def test_a_header_without_results_is_written_over(tmp_path, settings):
    path = tmp_path / "j.jsonl"
    path.write_text(json.dumps({"settings": settings}) + "\n")
    Journal(path, SETTINGS).append({"sample": "a"})
    assert list(Journal(path, SETTINGS).entries) == ["a"]


def test_a_refused_analysis_does_not_block_the_folder(command, tmp_path):
    out = tmp_path / "an"
    words = ("analyze", "--task", "count", "--samples", 1, "--out", out, "--device", "cpu")
    refused = command(*words, "--what", "bounds")
    assert refused.code == 2 and not list(tmp_path.rglob("*.jsonl"))
    done = command(*words, "--what", "ffn")
    assert done.code == 0, done.err
