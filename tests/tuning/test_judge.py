"""Losses are those of serving: forced logits equal generation's, and agreement is that of greedy answers."""

from __future__ import annotations

import pytest
import torch

import saccade
from calibration.vlm import question, save_model
from matrix.cases import LAYERS, greedy, inputs, model
from saccade import models
from saccade.calibration.measures import kl
from saccade.evaluation.runner import generate
from saccade.plans.plan import Plan
from saccade.system.journal import Journal
from saccade.tuning.judge import Judge, forced
from support.models import FACTORIES
from support.reference import gap

PLANS = [
    "dense",
    "vskip(layers=1-2)+ffn_skip(layers=0)",
    "fastv(layer=2,keep=0.5)+shortv(layers=3)",
    "divprune(keep=0.5)+vtw(layer=3)",
    "uniform(layer=1,keep=0.4,position_policy=keep)",
]
SAMPLES = [question(i, task="ab"[i % 2]) for i in range(6)] + [question(9, images=0)]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return models.load(str(save_model(tmp_path_factory.mktemp("model"))))


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("family", sorted(FACTORIES))
@torch.no_grad()
def test_forced_logits_are_those_of_generation(family, plan):
    tiny, given = model(family), inputs(family, "ragged-1-left")
    resolved = Plan.of(plan).resolve(LAYERS)
    with saccade.apply(tiny.model, resolved):
        out = greedy(tiny, given, new=5)
    said_BA = out.sequences[:, given["input_ids"].shape[1] :]
    made = forced(saccade.families.find(tiny.model), tiny.model, given, said_BA[:, :-1], resolved)
    assert gap(made, torch.stack(out.logits, 1)) < 1e-5


@pytest.mark.parametrize("plan", PLANS[1:])
def test_agreement_is_that_of_greedy_answers(loaded, plan):
    resolved = Plan.of(plan).resolve(loaded.shape.layers)
    judge = Judge(loaded, SAMPLES, parts=2, batch_size=2, tokens=6)
    found, asked = judge.whole(resolved), [s for part in (0, 1) for s in judge.order(part)]
    assert len(found.kl) == len(asked) == len(SAMPLES)
    for sample, agrees in zip(asked, found.agrees, strict=True):
        said = [generate(loaded, models.inputs(loaded, [sample]), each, 6)[0] for each in (None, resolved)]
        assert agrees == (said[0] == said[1]), sample.id
    assert max(found.kl) > 1e-6 and all(
        k < 1e-9 for s, k in zip(asked, found.kl, strict=True) if not s.images
    )


def test_the_loss_is_the_kl_summed_over_the_answer(loaded):
    plan = Plan.of("shortv(layers=1-2)")
    judge = Judge(loaded, SAMPLES[:1], tokens=6)
    found = judge.measure(plan, 0)
    ids = models.inputs(loaded, SAMPLES[:1])
    with torch.no_grad():
        whole = loaded.model.generate(**ids, **models.greedy(6))
        said = whole[:, ids["input_ids"].shape[1] :]
        dense, tried = (
            forced(loaded.family, loaded.model, ids, said[:, :-1], each)[0] for each in (Plan(), plan)
        )
    assert found.kl[0] == pytest.approx(float(kl(dense, tried, "full-perturbed").sum()), rel=1e-5)
    top = tried[0].softmax(-1).topk(2).values
    assert found.margin[0] == pytest.approx(float(top[0] - top[1]), abs=1e-4)
    assert judge.measure(Plan(), 0).kl == (0.0,) and judge.measure(Plan(), 0).agreement == 1


def test_batches_and_parts_change_nothing(loaded):
    plan = Plan.of("divprune(keep=0.5,position_policy=keep)+vskip(layers=2)")
    found = []
    for parts, size in ((1, 1), (1, 7), (3, 2)):
        judge = Judge(loaded, SAMPLES, parts=parts, batch_size=size, tokens=6)
        loss = judge.whole(plan)
        asked = [s.id for part in range(parts) for s in judge.order(part)]
        found.append(dict(zip(asked, loss.kl, strict=True)))
    for other in found[1:]:
        assert other == pytest.approx(found[0], rel=1e-3, abs=1e-5)


def test_a_shorter_prompt_is_judged_on_the_dense_answer(loaded):
    judge = Judge(loaded, SAMPLES[:2], tokens=6)
    assert judge.measure(Plan.of("resize(scale=0.5)"), 0).mean > 0
    assert judge.measure(Plan.of("resize(scale=1)"), 0).mean == 0


def test_what_was_measured_is_not_run_again(loaded, tmp_path):
    path, plans = tmp_path / "kept.jsonl", [Plan.of("shortv(layers=1)"), Plan.of("vskip(layers=1)")]

    def judge(journal):
        return Judge(loaded, SAMPLES, parts=2, tokens=6, journal=journal)

    with Journal(path) as journal:
        first = judge(journal)
        losses = [first.whole(plan) for plan in plans]
        assert first.prompts == 3 * len(SAMPLES)  # the dense model, and two plans
    with Journal(path) as journal:
        again = judge(journal)
        for plan, loss in zip(plans, losses, strict=True):
            assert again.whole(plan).kl == pytest.approx(loss.kl, abs=1e-6)
        assert again.prompts == 0
        other = Judge(loaded, SAMPLES, parts=2, tokens=5, journal=journal)
        assert other.known(plans[0], 0) is None


def test_more_parts_than_samples_are_refused(loaded):
    with pytest.raises(ValueError, match="2 samples cannot be split into 3 parts"):
        Judge(loaded, SAMPLES[:2], parts=3)
