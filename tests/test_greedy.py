"""Every command asks greedily, whatever the checkpoint does by default, and leaves its other settings."""

from __future__ import annotations

import math
import re
from types import SimpleNamespace

import pytest
import torch

import saccade
from saccade import models
from saccade.batch.shards import answer_records
from saccade.calibration.own_answer import with_answer
from saccade.engine import apply
from saccade.evaluation import runner
from saccade.glance import suite
from saccade.plans.plan import Plan
from saccade.report.explain import explain
from support.models import SQUARE, tiny_qwen

PROMPT = [3, SQUARE, 4]
HABITS = {
    "samples": {"do_sample": True, "temperature": 5.0, "top_k": 0},
    "samples almost greedily": {"do_sample": True, "temperature": 1e-6},
    "beams": {"num_beams": 3},
    "several": {"do_sample": True, "num_return_sequences": 2},
    "says more": {"return_dict_in_generate": True, "output_scores": True},
    "another cache": {"cache_implementation": "quantized"},
    "in chunks": {"prefill_chunk_size": 4},
    "guesses": {"prompt_lookup_num_tokens": 2},
    "in no time": {"max_time": 1e-9},
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


@pytest.fixture
def glance():
    return saccade.load("glance", device="cpu")


def ways(loaded):
    """What asks a model, by name."""
    sample = suite.samples("exist", 1)[0]
    batch = models.inputs(loaded, [sample])
    return {
        "stock": lambda: runner.generate(loaded, batch, None, 4),
        "plan": lambda: runner.generate(loaded, batch, Plan.of("vskip(layers=3)"), 4),
        "batch": lambda: answer_records(
            loaded, None, 4, [SimpleNamespace(id=sample.id, task="", load=lambda: sample)]
        ),
        "explain": lambda: explain(loaded, sample.images, sample.question, "vskip(layers=3)"),
    }


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("way", ["stock", "plan", "batch", "explain"])
def test_an_answer_of_logits_that_are_no_numbers_is_none(way, bad, glance):
    ask = ways(glance)[way]
    ask()
    with torch.no_grad():
        glance.model.lm_head.weight[7].fill_(bad)
    under = {"plan": r" under vskip\(layers=3\)"}.get(way, "")
    said = rf"logits are not finite{under}.*float32.*say nothing"
    if way == "batch":
        # A job goes on with its other records.
        (record,) = ask()
        assert "answer" not in record and re.search(said, record["error"])
        return
    with pytest.raises(ValueError, match=said):
        ask()


def test_tokens_that_a_checkpoint_bans_are_no_broken_logits(glance):
    batch = models.inputs(glance, suite.samples("exist", 1))
    usual = models.ask(glance, batch, 4)
    glance.model.generation_config.suppress_tokens = [int(usual[0, batch["input_ids"].shape[1]])]
    assert not torch.equal(models.ask(glance, batch, 4)[:, : usual.shape[1]], usual)


def test_settings_that_break_an_answer_are_named(glance):
    batch = models.inputs(glance, suite.samples("exist", 1))
    glance.model.generation_config.forced_eos_token_id = 10**6
    with pytest.raises(ValueError, match=r"generation_config\.json holds forced_eos_token_id") as refusal:
        models.ask(glance, batch, 1)
    assert "\n" not in str(refusal.value)


def test_strings_at_which_a_checkpoint_stops_are_kept(glance, monkeypatch):
    told = {}
    monkeypatch.setattr(glance.model, "generate", lambda **given: told.update(given))
    models.ask(glance, {}, 24)
    assert told["stop_strings"] is None and "tokenizer" not in told
    glance.model.generation_config.stop_strings = ["red"]
    models.ask(glance, {}, 24)
    assert told["stop_strings"] == ["red"] and told["tokenizer"] is glance.processor.tokenizer
