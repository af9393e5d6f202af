"""What was answered is not asked again; what was asked otherwise is."""

import json

import pytest
from PIL import Image

from saccade.evaluation.ledger import Ledger, sample_digest
from saccade.samples import Sample


def test_answers_come_back(tmp_path):
    path = tmp_path / "cells.jsonl"
    first = Ledger(path, {"tokens": 8})
    first.put("dense", ["a", "b"], ["1", "2"])
    first.close()
    second = Ledger(path, {"tokens": 8})
    assert second.get("dense", ["b", "a"]).texts == ["2", "1"]
    assert second.get("dense", ["a", "c"]) is None
    assert second.get("vskip(layers=1)", ["a"]) is None


def test_what_prompts_cost_comes_back_beside_their_answers(tmp_path):
    path = tmp_path / "cells.jsonl"
    first = Ledger(path, {})
    first.put("fastv()", ["a", "b"], ["1", "2"], {"gflops": 0.1 + 0.2})
    first.put("fastv()", ["c"], ["3"])
    first.close()
    cell = Ledger(path, {}).get("fastv()", ["c", "b", "a"])
    assert cell.texts == ["3", "2", "1"]
    assert cell.spent == [None, {"gflops": 0.1 + 0.2}, {"gflops": 0.1 + 0.2}]


def test_other_settings_start_anew(tmp_path):
    path = tmp_path / "cells.jsonl"
    first = Ledger(path, {"tokens": 8})
    first.put("dense", ["a"], ["1"])
    first.close()
    assert Ledger(path, {"tokens": 9}).get("dense", ["a"]) is None


@pytest.mark.parametrize("torn", ['{"plan": "dense", "answ', "[]", '{"plan": "dense"}', "\udcff"])
def test_a_torn_last_line_is_dropped_and_the_file_goes_on(tmp_path, torn):
    path = tmp_path / "cells.jsonl"
    first = Ledger(path, {})
    first.put("dense", ["a"], ["1"])
    first.close()
    with path.open("a", encoding="utf-8", errors="surrogateescape") as stream:
        stream.write(torn)
    second = Ledger(path, {})
    assert second.get("dense", ["a"]).texts == ["1"]
    second.put("dense", ["b"], ["2"])
    second.close()
    lines = path.read_text().splitlines()
    assert [json.loads(line) for line in lines[1:]] == [
        {"plan": "dense", "answers": {"a": "1"}},
        {"plan": "dense", "answers": {"b": "2"}},
    ]


def test_without_a_path_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ledger = Ledger(None, {})
    ledger.put("dense", ["a"], ["1"])
    ledger.close()
    assert ledger.get("dense", ["a"]).texts == ["1"] and list(tmp_path.iterdir()) == []


def test_digest_sees_pixels_questions_and_answers():
    def digest(colour="red", question="what ?", answer="red"):
        return sample_digest([Sample("a", "t", "t", (Image.new("RGB", (4, 4), colour),), question, answer)])

    assert digest() == digest()
    assert len({digest(), digest(colour="blue"), digest(question="who ?"), digest(answer="blue")}) == 4
