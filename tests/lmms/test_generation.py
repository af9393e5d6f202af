"""Generation settings of tasks: what reaches the model, and where an answer ends."""

from __future__ import annotations

import pytest
import torch

from saccade import models
from saccade.evaluation.runner import generate
from saccade.lmms.generation import Generation, StopsAt


def how(**settings):
    return dict(Generation.read(settings).how)


def test_greedy_settings_of_official_tasks_leave_no_sampling_behind():
    found = Generation.read(
        {
            "max_new_tokens": 16,
            "temperature": 0,
            "top_p": 1.0,
            "num_beams": 1,
            "do_sample": False,
            "until": ["\n"],
        }
    )
    assert (found.max_new_tokens, found.until) == (16, ("\n",))
    assert dict(found.how) == {
        "do_sample": False, "temperature": None, "top_p": None, "top_k": None, "num_beams": 1
    }  # fmt: skip
    assert found.ignored == ()


def test_a_temperature_above_zero_samples_and_zero_does_not():
    assert how(temperature=0.7, top_p=0.9) == {"do_sample": True, "temperature": 0.7, "top_p": 0.9}
    assert how(do_sample=True, top_k=5) == {"do_sample": True, "top_k": 5}
    assert how(do_sample=True, temperature=0.0)["do_sample"] is False
    assert how(do_sample=False, temperature=0.7)["do_sample"] is False
    assert how()["do_sample"] is False


def test_the_longest_answer_has_a_default_and_a_second_name():
    assert Generation.read({}).max_new_tokens == 1024
    assert Generation.read({"max_gen_toks": 7}).max_new_tokens == 7
    assert Generation.read({"max_new_tokens": None, "until": None}) == Generation.read({})
    with pytest.raises(ValueError, match="at least 1"):
        Generation.read({"max_new_tokens": 0})


def test_what_is_not_known_is_told_and_what_is_for_other_models_is_not():
    found = Generation.read({"image_aspect_ratio": "original", "typo": 1, "min_p": 0.1})
    assert found.ignored == ("min_p", "typo")


def test_settings_can_be_grouped_by():
    assert len({Generation.read({"until": ["a"]}), Generation.read({"until": "a"}), Generation.read({})}) == 2


@pytest.mark.parametrize(
    ("until", "text", "kept"),
    [
        (["\n\n"], "\n\n red \n\n and more", "red"),
        (["."], "red. blue", "red"),
        (["stop", ","], "red, blue stop", "red"),
        ("</s>", "red</s>blue", "red"),
        ([], " red\n\nblue ", "red\n\nblue"),
        ([""], "red", "red"),
    ],
)
def test_an_answer_ends_before_the_first_of_the_texts(until, text, kept):
    assert Generation.read({"until": until}).cut(text) == kept


def test_until_is_text():
    with pytest.raises(ValueError, match="until is a text or a list of texts"):
        Generation.read({"until": [3]})


def test_generation_stops_for_each_sample_alone_and_changes_no_answer(toy, questions):
    batch = questions[:6]
    inputs = models.inputs(toy, batch)
    long, _ = generate(toy, inputs, None, 12)
    stop = long[0].split()[1]
    wanted = Generation.read({"until": [stop], "max_new_tokens": 12})
    rows = inputs["input_ids"].shape[1]
    seen = []

    class Watched(StopsAt):
        def __call__(self, input_ids, scores, **kwargs):
            seen.append(input_ids.shape[1] - rows)
            return super().__call__(input_ids, scores, **kwargs)

    criteria = [Watched(toy.processor.tokenizer, wanted.until, rows)]
    short, _ = generate(toy, inputs, None, 12, stopping_criteria=criteria)
    assert [wanted.cut(text) for text in short] == [wanted.cut(text) for text in long]
    with torch.inference_mode():
        alone = models.inputs(toy, batch[:1])
        width = alone["input_ids"].shape[1]
        criteria = [Watched(toy.processor.tokenizer, wanted.until, width)]
        output = toy.model.generate(**alone, do_sample=False, max_new_tokens=12, stopping_criteria=criteria)
    assert output.shape[1] - width < 12, "the only sample was done early"
