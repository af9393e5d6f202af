"""A tiny random model as a folder, questions as a file, and one store of answers for all tests of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from calibration.vlm import picture, save_model
from saccade import models
from saccade.inputs.samples import Sample
from saccade.research.studies import Store, StudyBench, StudyQuestions
from support.asking import say

TASKS = ("first", "second")
EACH = 8
LAYERS = 4
TOKENS = 3
WORDS = ("red", "blue", "green", "circle", "square", "left", "above")


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory) -> Path:
    """A random model of four layers, saved."""
    return save_model(tmp_path_factory.mktemp("model"), layers=LAYERS)


@pytest.fixture(scope="session")
def loaded(model_folder) -> models.Loaded:
    """The same model; leave it as you found it."""
    return models.load(str(model_folder))


@pytest.fixture(scope="session")
def data_file(tmp_path_factory, loaded) -> Path:
    """A user's file of two tasks with eight questions each; in the first the stock model is always right."""
    folder = tmp_path_factory.mktemp("data")
    rows = []
    for number in range(EACH * len(TASKS)):
        task = TASKS[number % len(TASKS)]
        image = picture(number)
        image.save(folder / f"{number}.png")
        asked = (
            f"is the {' '.join(WORDS[(number * step) % len(WORDS)] for step in range(1, 2 + number % 3))} ?"
        )
        right = say(loaded, Sample(f"q{number}", task, "", (image,), asked), TOKENS) or "nothing"
        rows.append(
            {
                "id": f"q{number}",
                "task": task,
                "subtask": "ab"[number // 2 % 2],
                "image": f"{number}.png",
                "question": asked,
                "answer": right if task == TASKS[0] else "red",
            }
        )
    path = folder / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def questions(data_file) -> StudyQuestions:
    """Three held-out questions of each task, four calibration samples."""
    return StudyQuestions.of_file(data_file, (), 3, 4, 0)


@pytest.fixture(scope="session")
def shared(tmp_path_factory) -> Path:
    """One store for all tests that only add to it."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def bench(loaded, questions, shared) -> StudyBench:
    """The tiny model on the user's questions, with the shared store."""
    return StudyBench(loaded, questions, Store(shared), tokens=TOKENS)
