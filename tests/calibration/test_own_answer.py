"""The model's own answer behind a prompt: what it says, where it stops, and what scores make of it."""

from __future__ import annotations

import pytest
import torch

from calibration.vlm import question, save_model
from saccade import models
from saccade.calibration import calibrate, scores
from saccade.calibration.own_answer import with_answer
from saccade.engine import apply
from saccade.families import find
from saccade.methods.vskip import VSkip
from support.models import FACTORIES, FIRST_WORD, SQUARE, TALL, tiny_llava

PROMPT = [3, SQUARE, 2, TALL, 5]
SAMPLES = [question(i) for i in range(3)]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return models.load(str(save_model(tmp_path_factory.mktemp("model"))))


@pytest.mark.parametrize("name", FACTORIES)
def test_the_rows_at_the_end_choose_the_tokens_that_follow_them(name):
    """One forward of prompt and answer says again, row by row, what was decoded step by step."""
    tiny = FACTORIES[name](layers=3)
    inputs = tiny.batch([PROMPT], seed=4)
    longer, tail = with_answer(tiny.model, inputs, 5)
    rows = inputs["input_ids"].shape[1]
    assert tail == 5 and longer["input_ids"].shape[1] == rows + 4
    assert torch.equal(longer["input_ids"][:, :rows], inputs["input_ids"])
    assert bool(longer["attention_mask"].all())
    with torch.no_grad():
        # Tiny models do not say special tokens when they generate.
        said = FIRST_WORD + tiny.model(**longer).logits[0, -tail:, FIRST_WORD:].argmax(-1)
    assert torch.equal(said[:-1], longer["input_ids"][0, rows:])
    assert torch.equal(tiny.visual(longer)[:, :rows], tiny.visual(inputs))


def test_one_token_asks_the_prompt_alone():
    tiny = tiny_llava(layers=2)
    tiny.model.generate = None
    inputs = tiny.batch([PROMPT])
    longer, tail = with_answer(tiny.model, inputs, 1)
    assert tail == 1 and longer.keys() == inputs.keys() and longer["input_ids"] is inputs["input_ids"]


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("place", [0, 1])
def test_an_answer_ends_where_the_model_ends_it(place, several):
    """The end is not appended, and the row that chooses it is the last one."""
    tiny = tiny_llava(layers=3)
    inputs = tiny.batch([PROMPT], seed=2)
    rows = inputs["input_ids"].shape[1]
    whole = with_answer(tiny.model, inputs, 7)[0]["input_ids"][0, rows:].tolist()
    assert whole.index(whole[place]) == place
    tiny.model.generation_config.eos_token_id = [whole[place], 127] if several else whole[place]
    longer, tail = with_answer(tiny.model, inputs, 7)
    assert longer["input_ids"][0, rows:].tolist() == whole[:place] and tail == place + 1


@pytest.mark.parametrize("name", FACTORIES)
def test_an_answer_ends_before_a_placeholder(name):
    """A model may say the token that stands for a picture; what follows it cannot be fed back."""
    tiny = FACTORIES[name](layers=3)
    inputs = tiny.batch([PROMPT], seed=2)
    rows = inputs["input_ids"].shape[1]
    whole = with_answer(tiny.model, inputs, 6)[0]["input_ids"][0].tolist()
    token = find(tiny.model).visual_ids(tiny.model.config)[0]
    generate = tiny.model.generate
    tiny.model.generate = lambda **given: torch.tensor([[*whole[: rows + 2], token, *whole[rows + 2 :]]])
    try:
        longer, tail = with_answer(tiny.model, inputs, 6)
    finally:
        tiny.model.generate = generate
    assert longer["input_ids"][0].tolist() == whole[: rows + 2] and tail == 3
    with torch.no_grad():
        tiny.model(**longer)


def test_a_score_is_the_sum_over_the_tokens_of_the_answer(loaded):
    """By prefixes: the prompt alone, the prompt and one token, the prompt and two tokens, each by itself."""
    found = scores(loaded.model, loaded.processor, SAMPLES, answer_tokens=3, check=True)
    assert found.cost["largest_difference"] < 1e-5
    for sample, values in zip(SAMPLES, found.values_SL, strict=True):
        inputs = models.inputs(loaded, [sample])
        longer, tail = with_answer(loaded.model, inputs, 3)
        rows = inputs["input_ids"].shape[1]
        for layer, value in enumerate(values):
            told = []
            for more in range(tail):
                part = dict(longer)
                for name in ("input_ids", "attention_mask"):
                    part[name] = longer[name][:, : rows + more]
                with torch.no_grad():
                    full = loaded.model(**part).logits[0, -1].double().log_softmax(-1)
                    with apply(loaded.model, VSkip(layers=(layer,))):
                        tried = loaded.model(**part).logits[0, -1].double().log_softmax(-1)
                told.append(float((tried.exp() * (tried - full)).sum()))
            assert value == pytest.approx(sum(told), abs=1e-5)


def test_a_plan_says_how_much_of_the_answer_was_looked_at(loaded):
    def made(**kwargs):
        plan = calibrate(loaded.model, loaded.processor, SAMPLES, budget=1, check=False, **kwargs)
        return plan.calibration

    first, more = made(), made(answer_tokens=4)
    assert (first["answer_tokens"], first["position"]) == (1, "last prompt row")
    assert (more["answer_tokens"], more["position"]) == (4, "every token of the answer")
    assert first["scores"]["mean"] != more["scores"]["mean"]
    with pytest.raises(ValueError, match="1 token of the answer or more, got 0"):
        made(answer_tokens=0)
