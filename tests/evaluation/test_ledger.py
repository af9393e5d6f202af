"""What was answered is not asked again; what was asked otherwise is."""

import json

import pytest
from PIL import Image

from saccade.evaluation.ledger import Ledger, sample_digest
from saccade.inputs.samples import Sample
from saccade.system.journal import Journal, settings_hash


def put(path, settings, *cells):
    """Keeps cells as a run that is interrupted then."""
    with Journal(path) as journal:
        ledger = Ledger(journal, settings)
        for cell in cells:
            ledger.put(*cell)


def get(path, settings, plan, ids):
    with Journal(path) as journal:
        return Ledger(journal, settings).get(plan, ids)


def test_answers_come_back(tmp_path):
    path = tmp_path / "cells.jsonl"
    put(path, {"tokens": 8}, ("dense", ["a", "b"], ["1", "2"]))
    assert get(path, {"tokens": 8}, "dense", ["b", "a"]).texts == ["2", "1"]
    assert get(path, {"tokens": 8}, "dense", ["a", "c"]) is None
    assert get(path, {"tokens": 8}, "vskip(layers=1)", ["a"]) is None


def test_what_prompts_cost_comes_back_beside_their_answers(tmp_path):
    path = tmp_path / "cells.jsonl"
    cost = {"gflops": 0.1 + 0.2}
    put(path, {}, ("fastv()", ["a", "b"], ["1", "2"], cost), ("fastv()", ["c"], ["3"]))
    cell = get(path, {}, "fastv()", ["c", "b", "a"])
    assert cell.texts == ["3", "2", "1"] and cell.spent == [None, cost, cost]


def test_answers_of_other_settings_are_neither_served_nor_lost(tmp_path):
    path = tmp_path / "cells.jsonl"
    put(path, {"tokens": 8}, ("dense", ["a"], ["1"]))
    assert get(path, {"tokens": 9}, "dense", ["a"]) is None
    put(path, {"tokens": 9}, ("dense", ["a"], ["other"]))
    put(path, {"tokens": 8}, ("dense", ["b"], ["2"]))
    assert get(path, {"tokens": 9}, "dense", ["a"]).texts == ["other"]
    assert get(path, {"tokens": 8}, "dense", ["a", "b"]).texts == ["1", "2"]


def test_answers_that_a_former_version_kept_come_back(tmp_path):
    """It wrote the digest of the settings for the settings."""
    path = tmp_path / "cells.jsonl"
    header = {"settings": settings_hash({"tokens": 8})}
    path.write_text(f'{json.dumps(header)}\n{{"plan": "dense", "answers": {{"a": "1"}}}}\n')
    assert get(path, {"tokens": 8}, "dense", ["a"]).texts == ["1"]
    assert get(path, {"tokens": 9}, "dense", ["a"]) is None


@pytest.mark.parametrize("torn", ['{"plan": "dense", "answ', "[]", '{"plan": "dense"}', "\udcff"])
def test_a_torn_last_line_is_dropped_and_the_file_goes_on(tmp_path, torn):
    path = tmp_path / "cells.jsonl"
    put(path, {}, ("dense", ["a"], ["1"]))
    with path.open("a", encoding="utf-8", errors="surrogateescape") as stream:
        stream.write(torn)
    put(path, {}, ("dense", ["b"], ["2"]))
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"settings": {}},
        {"plan": "dense", "answers": {"a": "1"}},
        {"plan": "dense", "answers": {"b": "2"}},
    ]


def test_without_a_path_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ledger = Ledger(Journal(None), {})
    ledger.put("dense", ["a"], ["1"])
    assert ledger.get("dense", ["a"]).texts == ["1"] and list(tmp_path.iterdir()) == []


def test_digest_sees_pixels_questions_and_answers():
    def digest(colour="red", question="what ?", answer="red"):
        return sample_digest([Sample("a", "t", "t", (Image.new("RGB", (4, 4), colour),), question, answer)])

    assert digest() == digest()
    assert len({digest(), digest(colour="blue"), digest(question="who ?"), digest(answer="blue")}) == 4
