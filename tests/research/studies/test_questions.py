"""Held-out questions and calibration samples are apart, reproducible, and refused where there are too few."""

from __future__ import annotations

import json
import pickle

import pytest

from saccade.research.studies import StudyQuestions, questions


def ids(samples):
    return [sample.id for sample in samples]


def test_a_file_is_split_without_overlap_and_the_same_every_time(data_file):
    made = StudyQuestions.of_file(data_file, (), 1000, 100, 3)
    again = pickle.loads(pickle.dumps(StudyQuestions.of_file(data_file, (), 1000, 100, 3)))
    other = StudyQuestions.of_file(data_file, (), 1000, 100, 4)
    assert made.tasks == ("first", "second")
    for task in made.tasks:
        asked, held = ids(made.asked(task)), ids(made.calibration(task))
        assert len(asked) == len(held) == 4 and not set(asked) & set(held)
        assert asked == ids(again.asked(task)) and held == ids(again.calibration(task))
        assert ids(made.calibration(task, 2)) == held[:2]
    assert any(set(ids(made.asked(t))) != set(ids(other.asked(t))) for t in made.tasks)


def test_the_suite_gives_its_own_splits():
    made = StudyQuestions.of_suite(("count", "word", "count"), 2, 3, 5)
    assert made.tasks == ("count", "word")
    assert all(i.startswith("test/5/count/") for i in ids(made.asked("count")))
    assert all(i.startswith("calibration/5/word/") for i in ids(made.calibration("word")))
    assert len(made.calibration("word")) == 3 and len(StudyQuestions.of_suite((), 1, 1, 0).tasks) == 13


def test_questions_are_drawn_once_while_there_is_room_for_their_pictures(data_file, monkeypatch):
    made = StudyQuestions.of_file(data_file, (), 1000, 100, 3)
    first, second = made.asked("first"), made.asked("second")
    assert made.asked("first") is first and made.asked("second") is second

    size = sum(4 * image.width * image.height for sample in first for image in sample.images)
    assert size > 0
    monkeypatch.setattr(questions, "KEPT_BYTES", size)
    tight = StudyQuestions.of_file(data_file, (), 1000, 100, 3)
    assert tight.asked("first") is tight.asked("first")
    assert tight.asked("second") is not tight.asked("second")
    assert ids(tight.asked("second")) == ids(second)


def test_another_process_is_not_sent_the_pictures_and_draws_the_same(data_file):
    made = StudyQuestions.of_file(data_file, (), 1000, 100, 3)
    before = len(pickle.dumps(made))
    bare, digest = made.bare("first")
    assert ids(bare) == ids(made.asked("first")) and not any(sample.images for sample in bare)
    assert len(pickle.dumps(made)) == before
    again = pickle.loads(pickle.dumps(made))
    assert again == made and again.bare("first") == (bare, digest)
    assert made.bare("second")[1] != digest


def test_what_cannot_be_asked_is_refused(data_file, tmp_path):
    with pytest.raises(ValueError, match="unknown task 'nosuch'"):
        StudyQuestions.of_suite(("nosuch",), 1, 1, 0)
    with pytest.raises(ValueError, match="65536"):
        StudyQuestions.of_suite((), 1, 1, 1 << 16)
    with pytest.raises(ValueError, match="no task 'third'"):
        StudyQuestions.of_file(data_file, ("third",), 1, 1, 0)
    lonely = tmp_path / "lonely.jsonl"
    lonely.write_text(json.dumps({"question": "is it ?", "answer": "yes"}) + "\n")
    with pytest.raises(ValueError, match="one question"):
        StudyQuestions.of_file(lonely, (), 1, 1, 0)
