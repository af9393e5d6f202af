"""No model is taken for another of the same weights, and dense is priced as what it is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from saccade import models, skip_vision
from saccade.engine import apply
from saccade.evaluation import EvaluationOptions, compare, runner
from saccade.identity import code_of, model_digest, setup_digest
from saccade.opening.digest import weights_digest
from saccade.plans.plan import Plan
from saccade.research.studies import Store, StudyBench, StudyQuestions
from saccade.skip_vision import SkipVisionConfig
from support.toy import build_toy

SKIPPING = SkipVisionConfig(layout="llava", retained=6, merged=5, learned_summary=False)
TALKATIVE = (
    "{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>"
    "{% else %}is there a {{ c['text'] }}{% endif %}{% endfor %}{% endfor %}"
)


def wrapped(**more) -> models.Loaded:
    return skip_vision.wrap(build_toy(), replace(SKIPPING, **more))


@pytest.fixture
def talkative() -> models.Loaded:
    """The toy with another chat template."""
    toy = build_toy()
    toy.processor.chat_template = TALKATIVE
    return toy


def test_the_shipped_model_is_known_by_its_weights_alone():
    glance = models.load("glance")
    assert setup_digest(glance) == "" and model_digest(glance) == weights_digest(glance.model)
    glance.processor.chat_template += " "
    assert model_digest(glance).startswith(weights_digest(glance.model) + "+")


def test_the_same_weights_with_another_setup_are_another_model(talkative):
    toy = build_toy()
    brighter = build_toy()
    brighter.processor.image_processor.image_mean = [0.4, 0.5, 0.5]
    found = [toy, talkative, brighter]
    assert len({weights_digest(one.model) for one in found}) == 1
    assert len({model_digest(one) for one in found}) == 3
    assert model_digest(build_toy()) == model_digest(toy)


def test_skip_vision_models_of_the_same_weights_are_different_models():
    found = [wrapped(), wrapped(cache="small"), wrapped(cache="middle+small"), wrapped(skip_ffn=False)]
    assert len({weights_digest(one.model) for one in found}) == 1
    assert len({model_digest(one) for one in found}) == len(found)
    assert model_digest(wrapped()) == model_digest(found[0])
    skip_vision.set_cache(found[0], "small")
    assert model_digest(found[0]) == model_digest(found[1])


def test_studies_and_ledgers_keep_them_apart(talkative, questions, tmp_path):
    toy = build_toy()
    asked = StudyQuestions.of_suite(("count",), 2, 2, 0)
    keys = [StudyBench(one, asked, Store(tmp_path)).column("count", "dense").key for one in (toy, talkative)]
    assert keys[0].weights == keys[1].weights and keys[0].setup != keys[1].setup

    def answered(loaded, path):
        found = runner.answer(
            loaded, questions[:4], [runner.AnswerRun("dense")], EvaluationOptions(4, 4), ledger=path
        )
        return [p.text for p in found.predictions["dense"]]

    path = tmp_path / "ledger.jsonl"
    first = answered(toy, path)
    second = answered(talkative, path)
    assert second == answered(talkative, None) != first


@pytest.mark.parametrize("more", [{}, {"cache": "small"}, {"skip_ffn": False}])
def test_dense_of_a_wrapped_model_is_priced_under_the_plan_that_belongs_to_it(questions, more):
    loaded = wrapped(**more)
    plan = "vskip(layers=3)"
    found = compare(
        loaded.model, loaded.processor, questions[:6], [plan], batch_size=3, max_new_tokens=2, blind=False
    )
    layouts = runner.count_prompts(loaded, questions[:6])
    bare = runner.mean_cost(loaded, Plan(), layouts)
    own = runner.mean_cost(loaded, _own(loaded), layouts)
    dense, over = found.dense.cost, found.plans[plan].cost
    for name in ("gflops", "kv_bytes"):
        assert dense[name] == pytest.approx(own[name]) == dense[f"dense_{name}"] == over[f"dense_{name}"]
    assert dense["flops_ratio"] == dense["kv_ratio"] == 1
    # What the plan adds is told against the model as it is, not against one that skips nothing.
    assert over["gflops"] < dense["gflops"] and over["flops_ratio"] < 1
    assert (dense["gflops"] < bare["gflops"]) == more.get("skip_ffn", True)
    assert (dense["kv_bytes"] < bare["kv_bytes"]) == ("cache" in more)
    assert over["kv_ratio"] == pytest.approx(1)


def _own(loaded: models.Loaded) -> Plan:
    with apply(loaded.model, Plan()) as handle:
        return Plan(handle.plan.methods)


def test_answers_of_a_decoder_that_was_dispatched_whole_are_asked_again(tmp_path):
    """Rows that plans drop inside it were once all kept there; stock answers were right."""
    plan = Plan.of("fastv(layer=1,keep=0.5)")
    here = models.load("glance", device="cpu")
    apart = {"model.vision_tower": "cpu", "model.multi_modal_projector": "cpu", "lm_head": "cpu"}
    apart |= {"model.language_model": "disk"}
    there = models.load("glance", device_map=apart, offload_folder=str(tmp_path))
    assert "dispatched" not in f"{code_of(here, plan)}{code_of(there)}"
    assert code_of(there, plan).split(", ") == sorted(
        [*code_of(here, plan).split(", "), "dispatched decoder 2"]
    )
