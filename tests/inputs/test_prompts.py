"""Prompts that are refused or warned of before anything is computed."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest

from calibration.vlm import question, save_model
from saccade import models
from saccade.calibration import scores
from saccade.evaluation import evaluate
from saccade.inputs.prompts import extremes, placeholders


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return models.load(str(save_model(tmp_path_factory.mktemp("model"))))


def test_a_question_that_holds_a_placeholder_is_refused_by_name(loaded):
    (token,) = placeholders(loaded.processor, loaded.family, loaded.model.config)
    asked = replace(question(1), id="mine/7", question=f"what is {token} this")
    with pytest.raises(ValueError, match=r"^mine/7: the question holds '<image>', which this model reads"):
        models.inputs(loaded, [question(0), asked])


@pytest.mark.parametrize("work", ["calibrate", "evaluate"])
def test_it_is_refused_before_the_first_question_is_asked(loaded, work, monkeypatch):
    asked = [replace(one, answer="yes") for one in (question(0), question(1))]
    asked[1] = replace(asked[1], question="what is <image> this")
    monkeypatch.setattr(loaded.model, "forward", None)
    with pytest.raises(ValueError, match="the question holds"):
        if work == "calibrate":
            scores(loaded.model, loaded.processor, asked)
        else:
            evaluate(loaded.model, loaded.processor, asked)


def test_a_prompt_beyond_the_positions_is_warned_of_once_and_at_once(loaded):
    most = loaded.model.config.get_text_config().max_position_embeddings
    long = replace(question(2), question="what " * (most + 1))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            models.try_longest(loaded, [question(0), long, question(1)])
    assert [str(one.message) for one in caught if "positions" in str(one.message)] == [
        f"a prompt is longer than the {most:,} positions that this model was made for; its answers may be "
        "worthless: take a shorter question, fewer or smaller pictures, or a plan with resize"
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        models.try_longest(loaded, [question(0)])


def test_the_extremes_are_the_longest_question_and_the_most_pixels():
    plain, wordy = question(0), replace(question(1), question="word " * 50)
    large = replace(question(2), images=tuple(i.resize((99, 99)) for i in question(2).images))
    assert extremes([plain, wordy, large]) == [wordy, large]
    assert extremes([wordy]) == [wordy] and extremes([]) == []
