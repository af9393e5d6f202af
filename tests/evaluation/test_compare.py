"""Comparisons ask every question once per distinct plan, pair answers, and resume."""

import json

import pytest
from PIL import Image

from saccade import models
from saccade.engine import apply
from saccade.evaluation import compare, evaluate, runner
from saccade.inputs.samples import Sample
from saccade.opening.digest import weights_digest
from saccade.plans.plan import Plan
from support.asking import say
from support.toy import build_toy

TOKENS = 4
HARD = "vtw(layer=0)"


def test_batches_answer_as_singles_do(toy, questions):
    found = compare(toy.model, toy.processor, questions, [HARD], batch_size=3, max_new_tokens=TOKENS)
    assert [p.id for p in found.dense.predictions] == [s.id for s in questions]
    assert found.dense.mean.accuracy.value == 1
    with apply(toy.model, HARD):
        alone = [say(toy, s) for s in questions]
    assert [p.text for p in found.plans[HARD].predictions] == alone
    blind = [say(toy, models.blind(s)) for s in questions]
    assert [p.text for p in found.blind.predictions] == blind


def test_losses_are_counted_against_dense(toy, questions):
    found = evaluate(toy.model, toy.processor, questions, HARD, batch_size=4, max_new_tokens=TOKENS)
    wrong = sum(not p.correct for p in found.predictions)
    assert 0 < wrong <= len(questions)
    assert (found.mean.gained, found.mean.lost) == (0, wrong)
    assert found.mean.retention.value == pytest.approx(found.mean.accuracy.value)
    assert set(found.tasks) == {"task0", "task1", "task2"}
    assert found.mean.blind is not None


def test_cost_is_that_of_the_prompts(toy, questions):
    found = compare(
        toy.model, toy.processor, questions, [HARD], batch_size=4, max_new_tokens=TOKENS, blind=False
    )
    cost = found.plans[HARD].cost
    assert found.blind is None
    assert found.dense.cost["flops_ratio"] == 1
    assert cost["visual_tokens"] == 16 and cost["equivalent_tokens"] == 0
    words = [len(toy.processor.tokenizer(s.question).input_ids) for s in questions]
    assert cost["text_tokens"] == pytest.approx(sum(words) / len(words) + 2)
    assert cost["kv_ratio"] == pytest.approx(cost["text_tokens"] / (cost["text_tokens"] + 16))
    assert cost["kv_bytes"] < cost["dense_kv_bytes"]


def test_cost_of_a_reducer_is_that_of_the_route_that_ran(toy, questions):
    plans = ["fastv(layer=2,keep=0.25)", "random(keep=4)+vskip(layers=3)"]
    found = compare(toy.model, toy.processor, questions, plans, batch_size=5, max_new_tokens=1, blind=False)
    fastv, random = (one.cost for one in found.plans.values())
    assert fastv["equivalent_tokens"] == (2 * 16 + 2 * 4) / 4 and random["equivalent_tokens"] == 4
    text = fastv["text_tokens"]
    assert fastv["kv_ratio"] == pytest.approx((10 + text) / (16 + text))
    assert random["kv_ratio"] == pytest.approx((4 + text) / (16 + text))
    assert 0 < random["flops_ratio"] < fastv["flops_ratio"] < 1
    for plan, ran in zip(plans, (fastv, random), strict=True):
        nominal = runner.mean_cost(toy, Plan.of(plan), runner.count_prompts(toy, questions))
        assert {key: ran[key] for key in nominal} == pytest.approx(nominal) and ran["whole_ratio"] < 1


def test_the_whole_bill_has_the_tower_of_the_pictures_that_were_asked(toy, questions):
    plans = ["fastv(layer=2,keep=0.25)", "resize(scale=0.5)"]
    found = compare(toy.model, toy.processor, questions, plans, batch_size=5, max_new_tokens=1, blind=False)
    fastv, small = (one.cost for one in found.plans.values())
    tower, dense = toy.shape.tower, found.dense.cost
    seen = (tower.tower_flops((4, 4)) + tower.projector_flops((4, 4))) / 1e9
    head = 2 * toy.shape.hidden * toy.shape.vocab / 1e9
    assert dense["tower_gflops"] == fastv["tower_gflops"] == pytest.approx(seen)
    assert dense["whole_ratio"] == 1 and dense["whole_gflops"] == pytest.approx(seen + head + dense["gflops"])
    assert fastv["flops_ratio"] < fastv["whole_ratio"] < 1
    assert fastv["tower_share"] == pytest.approx(seen / fastv["whole_gflops"])
    half = tower.tower_flops((2, 2)) + tower.projector_flops((2, 2))
    assert small["tower_gflops"] == pytest.approx(half / 1e9) and small[
        "dense_tower_gflops"
    ] == pytest.approx(seen)


def test_a_shorter_prompt_is_priced_against_the_full_one(toy, questions):
    found = evaluate(
        toy.model, toy.processor, questions, "resize(scale=0.5)", batch_size=4, max_new_tokens=1, blind=False
    )
    text = found.cost["text_tokens"]
    assert (found.cost["visual_tokens"], found.cost["equivalent_tokens"]) == (16, 4)
    assert found.cost["kv_ratio"] == pytest.approx((4 + text) / (16 + text))
    assert found.cost["flops_ratio"] < 0.6


def test_counts_that_only_the_picture_tells_are_priced_as_they_came(toy, questions):
    plan = "prumerge()"
    found = evaluate(toy.model, toy.processor, questions, plan, batch_size=4, max_new_tokens=1, blind=False)
    alone = []
    for sample in questions:
        with apply(toy.model, plan) as handle, handle.tracing() as traces:
            say(toy, sample, 1)
        alone.append(int(traces[0].alive(0).sum()))
    assert found.cost["equivalent_tokens"] == pytest.approx(sum(alone) / len(alone))


def test_answers_kept_without_costs_are_priced_in_closed_form(toy, questions, tmp_path):
    path, settings = tmp_path / "cells.jsonl", dict(batch_size=4, max_new_tokens=TOKENS, blind=False)
    fresh = compare(toy.model, toy.processor, questions, [HARD], ledger=path, **settings)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert any("spent" in line for line in lines)
    old = [{key: value for key, value in line.items() if key != "spent"} for line in lines]
    path.write_text("".join(json.dumps(line) + "\n" for line in old))
    again = compare(toy.model, toy.processor, questions, [HARD], ledger=path, **settings)
    assert again.plans[HARD].cost == pytest.approx(fresh.plans[HARD].cost)


def test_an_empty_plan_is_dense_and_equal_plans_run_once(toy, questions, monkeypatch):
    calls = []
    real = runner.generate
    monkeypatch.setattr(runner, "generate", lambda *a: calls.append(a[2]) or real(*a))
    plans = {"none": "vskip(layers=none)", "one": HARD, "same": HARD, "dense": "dense"}
    found = compare(
        toy.model, toy.processor, questions, plans, batch_size=64, max_new_tokens=TOKENS, blind=False
    )
    assert found.plans["one"].predictions == found.plans["same"].predictions
    assert found.plans["dense"].predictions == found.dense.predictions
    assert [p.text for p in found.plans["none"].predictions] == [p.text for p in found.dense.predictions]
    assert len(calls) == 3 * 3  # three tasks; dense, the empty selection, the one plan


def test_an_interrupted_run_resumes(toy, questions, tmp_path, monkeypatch):
    path = tmp_path / "cells.jsonl"
    real, seen = runner.generate, []

    def faulty(*args):
        if len(seen) == 4:
            raise KeyboardInterrupt
        seen.append(args)
        return real(*args)

    monkeypatch.setattr(runner, "generate", faulty)
    settings = dict(batch_size=4, max_new_tokens=TOKENS)
    with pytest.raises(KeyboardInterrupt):
        compare(toy.model, toy.processor, questions, [HARD], ledger=path, **settings)
    assert len(path.read_text().splitlines()) == 1 + 4
    monkeypatch.setattr(runner, "generate", lambda *a: seen.append(a) or real(*a))
    resumed = compare(toy.model, toy.processor, questions, [HARD], ledger=path, **settings)
    assert len(seen) == 3 * 3  # three tasks; dense, blind, plan
    assert path.exists()  # the caller removes it once the result is written
    fresh = compare(toy.model, toy.processor, questions, [HARD], **settings)
    assert json.dumps(resumed.to_dict(True)) == json.dumps(fresh.to_dict(True))


def test_answers_of_another_number_format_do_not_resume(questions, tmp_path, monkeypatch):
    toy = build_toy()
    path, settings = tmp_path / "cells.jsonl", dict(batch_size=64, max_new_tokens=1, blind=False)
    for weight in toy.model.parameters():
        weight.data = weight.data.bfloat16().float()  # as read from a file of 16 bits
    compare(toy.model, toy.processor, questions, [], ledger=path, **settings)
    calls, real = [], runner.generate
    monkeypatch.setattr(runner, "generate", lambda *a: calls.append(a) or real(*a))
    compare(toy.model, toy.processor, questions, [], ledger=path, **settings)
    assert not calls
    compare(toy.model.bfloat16(), toy.processor, questions, [], ledger=path, **settings)
    assert len(calls) == 3  # tasks


def test_other_weights_do_not_resume(toy):
    before = weights_digest(toy.model)
    weight = toy.model.lm_head.weight.data
    kept = weight.clone()
    weight[0, 0] += 1
    after = weights_digest(toy.model)
    weight.copy_(kept)
    assert before != after
    assert weights_digest(toy.model) == before


def test_batches_hold_one_task_and_like_prompts(toy, questions):
    found = list(runner.chunks(questions, toy.processor.tokenizer, 2))
    assert sorted(i for batch in found for i in batch) == list(range(len(questions)))
    assert all(len({questions[i].task for i in batch}) == 1 and len(batch) <= 2 for batch in found)
    for task in {s.task for s in questions}:
        lengths = [len(questions[i].question) for b in found for i in b if questions[i].task == task]
        assert lengths == sorted(lengths)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: [], "no samples"),
        (lambda s: [*s, s[0]], "repeat"),
        (lambda s: [Sample("n", "t", "t", s[0].images, "what ?", " ")], "no answer"),
    ],
)
def test_bad_samples_are_refused(toy, questions, change, message):
    with pytest.raises(ValueError, match=message):
        evaluate(toy.model, toy.processor, change(questions))


@pytest.mark.parametrize(
    ("plan", "message"),
    [("vskip(budget=2)", "layers"), ("vskip(layers=9)", "layer 9"), ("nosuch", "no method")],
)
def test_bad_plans_are_refused_before_anything_runs(toy, questions, plan, message):
    with pytest.raises(ValueError, match=message):
        evaluate(toy.model, toy.processor, questions, plan)


def test_the_same_plan_twice_is_refused(toy, questions):
    with pytest.raises(ValueError, match="same"):
        compare(toy.model, toy.processor, questions, [HARD, HARD])


def test_prompts_without_images_cost_what_they_do_without_a_plan(toy):
    asked = [Sample(str(i), "t", "t", (), "is there a ring ?" + " yes" * i, "yes") for i in range(3)]
    found = evaluate(
        toy.model, toy.processor, asked, "fastv(layer=1)", batch_size=2, max_new_tokens=2, blind=False
    )
    assert found.cost["flops_ratio"] == pytest.approx(1) and found.cost["kv_ratio"] == pytest.approx(1)
    assert found.cost["equivalent_tokens"] == 0


def test_text_only_and_two_image_questions_run_together(toy):
    grey = Image.new("RGB", (32, 32), "grey")
    asked = [
        Sample("none", "t", "t", (), "is there a ring ?", "yes"),
        Sample("two", "t", "t", (grey, grey), "is there a ring ?", "yes"),
    ]
    found = evaluate(toy.model, toy.processor, asked, HARD, batch_size=2, max_new_tokens=2)
    assert found.mean.n == 2
    assert found.cost["visual_tokens"] == 16
