"""Every command asks greedily, whatever the checkpoint does by default, and leaves its other settings."""

from __future__ import annotations

import pytest
import torch

from saccade import models
from saccade.calibration.own_answer import with_answer
from saccade.engine import apply
from support.models import SQUARE, tiny_qwen

PROMPT = [3, SQUARE, 4]
HABITS = {
    "samples": {"do_sample": True, "temperature": 5.0, "top_k": 0},
    "samples almost greedily": {"do_sample": True, "temperature": 1e-6},
    "beams": {"num_beams": 3},
    "several": {"do_sample": True, "num_return_sequences": 2},
    "says more": {"return_dict_in_generate": True, "output_scores": True},
}


@pytest.mark.parametrize("habit", HABITS)
def test_a_checkpoints_habits_change_no_answer(habit):
    tiny = tiny_qwen(layers=2)
    inputs = tiny.batch([PROMPT])
    expected = tiny.model.generate(**inputs, do_sample=False, max_new_tokens=6)
    for key, value in HABITS[habit].items():
        setattr(tiny.model.generation_config, key, value)
    assert torch.equal(tiny.model.generate(**inputs, **models.greedy(6)), expected)
    with apply(tiny.model, "vskip(layers=none)"):
        assert torch.equal(tiny.model.generate(**inputs, **models.greedy(6)), expected)
    longer, _ = with_answer(tiny.model, inputs, 7)
    assert torch.equal(longer["input_ids"], expected)


@pytest.mark.parametrize("plan", ["vskip(layers=none)", "vskip(layers=1)"])
def test_a_repetition_penalty_stays_with_the_stock_model_and_under_a_plan(plan):
    tiny = tiny_qwen(layers=2)
    inputs = tiny.batch([PROMPT])
    tiny.model.generation_config.do_sample = True
    tiny.model.generation_config.repetition_penalty = 1.05
    with apply(tiny.model, plan):
        found = tiny.model.generate(**inputs, **models.greedy(6))
        expected = tiny.model.generate(**inputs, do_sample=False, repetition_penalty=1.05, max_new_tokens=6)
        tiny.model.generation_config.repetition_penalty = 50.0
        other = tiny.model.generate(**inputs, **models.greedy(6))
    assert torch.equal(found, expected) and not torch.equal(found, other)
