"""Prompts that are refused before anything is computed."""

from __future__ import annotations

import copy
import time
from dataclasses import replace

import pytest

from calibration.vlm import question, save_model
from saccade import models
from saccade.calibration import scores
from saccade.evaluation import evaluate
from saccade.families import find
from saccade.inputs.prompts import check_length, extremes, most_positions, placeholders
from support.models import FACTORIES, SQUARE, TALL, WIDE


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


def test_a_prompt_beyond_the_positions_is_refused_at_once_by_name(loaded, monkeypatch):
    most = loaded.model.config.get_text_config().max_position_embeddings
    long = replace(question(2), id="mine/2", question="what " * (most + 1))
    monkeypatch.setattr(loaded.model, "forward", None)
    said = rf"^mine/2: the prompt takes [\d,]+ positions, and this model was made for {most:,};"
    for work in (models.try_longest, models.inputs):
        with pytest.raises(ValueError, match=said):
            work(loaded, [question(0), long, question(1)])
    models.try_longest(loaded, [question(0)])


def test_a_question_of_400_000_characters_is_refused_in_seconds(loaded, monkeypatch):
    long = replace(question(2), question="a " * 200_000)
    monkeypatch.setattr(loaded.model, "forward", None)
    start = time.process_time()
    with pytest.raises(ValueError, match="the prompt takes 20"):
        models.inputs(loaded, [long])
    assert time.process_time() - start < 20


def test_the_last_prompt_that_fits_is_taken(loaded):
    config = copy.deepcopy(loaded.model.config)
    config.get_text_config().max_position_embeddings = 9
    check_length([3, 9], config)
    with pytest.raises(ValueError, match=r"^b: the prompt takes 10 positions, and .* for 9;"):
        check_length([9, 10], config, ["a", "b"])


@pytest.mark.parametrize(
    ("rope", "most"),
    [
        ({"rope_type": "default"}, 100),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 50}, 200),
        ({"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 50}, 100),
        ({"rope_type": "linear", "factor": 3.0}, 300),
        ({"rope_type": "dynamic", "factor": 2.0}, None),
    ],
)
def test_stretched_positions_count(rope, most, loaded):
    config = copy.deepcopy(loaded.model.config)
    text = config.get_text_config()
    text.max_position_embeddings, text.rope_parameters = 100, {"rope_theta": 1e4} | rope
    assert most_positions(config) == most


def test_a_token_that_the_model_has_not_is_told(loaded):
    small = replace(loaded, shape=replace(loaded.shape, vocab=2))
    with pytest.raises(ValueError, match=r"writes token \d+, and the model has 2: its tokenizer"):
        models.inputs(small, [question(0)])


@pytest.mark.parametrize("name", sorted(FACTORIES))
def test_positions_are_those_of_the_stock_model(name):
    """Mixed batches, padding left and right, against the positions that the stock model makes."""
    tiny, family = FACTORIES[name](), find(FACTORIES[name]().model)
    samples = [[3, SQUARE, 5], [4], [2, TALL, 1, WIDE, 6]]
    for padding in ("left", "right"):
        given = tiny.batch(samples, padding)
        seen = given["attention_mask"].bool()
        if name.startswith(("qwen", "glm")):
            kinds = {key: given[key] for key in ("mm_token_type_ids", "image_grid_thw") if key in given}
            made, _ = tiny.model.model.get_rope_index(
                given["input_ids"], attention_mask=given["attention_mask"], **kinds
            )
            want = [int(made[:, i, seen[i]].max()) + 1 for i in range(len(samples))]
            assert want != seen.sum(1).tolist()
        else:
            want = seen.sum(1).tolist()
        assert family.positions(tiny.model.config, given) == want


def test_the_extremes_are_the_longest_question_and_the_most_pixels():
    plain, wordy = question(0), replace(question(1), question="word " * 50)
    large = replace(question(2), images=tuple(i.resize((99, 99)) for i in question(2).images))
    assert extremes([plain, wordy, large]) == [wordy, large]
    assert extremes([wordy]) == [wordy] and extremes([]) == []


def test_a_model_that_takes_pictures_alone_names_the_question_without_one(loaded, monkeypatch):
    bare = replace(question(1), id="bare", images=())
    models.inputs(loaded, [question(0), bare])
    monkeypatch.setattr(type(loaded.family), "text_alone", False)
    models.inputs(loaded, [question(0)])
    for ask in (models.inputs, models.try_longest):
        with pytest.raises(ValueError, match=r"^bare: there is no picture, and LLaVA-1.5 takes no prompt"):
            ask(loaded, [question(0), bare])
