"""Requests of every plan, arriving whenever they like: each is answered as it would be alone."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import replace
from typing import Any

import pytest

from saccade import models
from saccade.inputs.samples import Sample
from saccade.plans.adapter import AdapterRef
from saccade.plans.plan import Plan
from saccade.serve import worker as module
from saccade.serve.choosing import Drawing
from saccade.serve.errors import RequestRefused
from saccade.serve.reader import Reader
from serve.serving import PLANS, asked, picture, started
from support.toy import build_toy

QUESTIONS = (
    "what color is the circle ?",
    "how many red objects are there ?",
    "is there a ring ? yes",
    "red ?",
)


def submitted(worker, *many):
    """Requests to a worker, at once."""
    pairs = [asked(worker.loaded, *one) for one in many]
    # Between two turns, so that they are read together.
    with worker._wake:
        for one, _ in pairs:
            worker.submit(one)
    return [heard for _, heard in pairs]


def sample_of(worker, name, **labels):
    return worker.metrics._registry.get_sample_value(name, labels) or 0.0


def test_requests_of_all_plans_together_are_answered_as_each_alone(worker, offline):
    many = [
        (QUESTIONS[n % 4], tuple(picture(100 + n + k) for k in range(n % 3)), plan)
        for n, plan in enumerate(("", *PLANS, "", *PLANS))
    ]
    heard = submitted(worker, *many)
    for one, (question, images, plan) in zip(heard, many, strict=True):
        text, ended = one.answer()
        assert text == offline(question, images, plan), (question, plan)
        assert ended.reused == 0 and ended.reason in ("stop", "length") and ended.tokens <= 8


@pytest.mark.parametrize("plan", ["", *PLANS])
def test_a_picture_that_was_asked_about_is_not_read_again(plan, worker, offline):
    images = (picture(7), picture(8))
    reuses = plan != "fastv"
    assert (plan in worker.reader.reuses) == reuses
    found = "hit" if reuses else "never"
    hits = sample_of(worker, "saccade_prefix_lookups_total", plan=plan, found=found)
    rows = []
    for question in QUESTIONS:
        [heard] = submitted(worker, (question, images, plan))
        text, ended = heard.answer()
        assert text == offline(question, images, plan)
        rows.append((ended.prompt, ended.reused))
    # All but the words after the last picture and what the template puts there.
    words = [len(question.split()) for question in QUESTIONS]
    want = [
        (p, p - w - 1 if n and reuses else 0) for n, ((p, _), w) in enumerate(zip(rows, words, strict=True))
    ]
    assert rows == want
    after = sample_of(worker, "saccade_prefix_lookups_total", plan=plan, found=found)
    assert after - hits == (3 if reuses else 4)


def test_what_is_kept_is_bounded_and_the_oldest_goes_first(worker, offline):
    [heard] = submitted(worker, ("red ?", (picture(50),), ""))
    heard.answer()
    key = asked(worker.loaded, "red ?", (picture(50),))[0].key
    size = worker.kept.get(key).size
    few = started(beginnings=2 * size + size // 2)
    try:
        for seed, reused in ((1, False), (2, False), (1, True), (3, False), (1, True), (2, False)):
            [heard] = submitted(few, ("red ?", (picture(seed),), ""))
            text, ended = heard.answer()
            assert text == offline("red ?", (picture(seed),)) and bool(ended.reused) == reused
            assert len(few.kept) <= 2 and few.kept.size <= few.limits.beginnings
    finally:
        few.close()
    assert few.kept.size == 0


def test_a_late_request_joins_answers_that_are_being_written(worker, offline):
    first, early = asked(worker.loaded, QUESTIONS[0], (picture(1),), "withdraw", 200)
    late, other = asked(worker.loaded, QUESTIONS[1], (picture(2), picture(3)), "prune")
    worker.submit(first)
    early.told.get(timeout=60)
    worker.submit(late)
    assert other.answer()[0] == offline(QUESTIONS[1], (picture(2), picture(3)), "prune")
    first.gone = True
    wait_until(lambda: not worker._writing)


def wait_until(true, seconds=30):
    limit = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < limit
        time.sleep(0.005)


def test_work_for_nobody_is_stopped(worker):
    one, heard = asked(worker.loaded, QUESTIONS[0], longest=10_000)
    worker.submit(one)
    heard.told.get(timeout=60)
    one.gone = True
    wait_until(lambda: not worker._writing)
    assert worker._prompts is None


def test_an_answer_that_takes_too_long_is_given_up(worker):
    one, heard = asked(worker.loaded, QUESTIONS[0], longest=100_000, seconds=0.02)
    worker.submit(one)
    with pytest.raises(RequestRefused, match="no answer within") as refused:
        heard.answer()
    assert refused.value.status == 504


def test_seeds_repeat_what_was_drawn_also_beside_others(worker, offline):
    hot = Drawing(1.5, 0.9, 7)

    def drawn(*beside):
        pairs = [asked(worker.loaded, QUESTIONS[0], (picture(4),), drawing=hot), *beside]
        with worker._wake:
            for one, _ in pairs:
                worker.submit(one)
        return pairs[0][1].answer()[0]

    alone = drawn()
    assert drawn(asked(worker.loaded, QUESTIONS[2], (picture(5),), "prune", drawing=hot)) == alone
    others = {seed: Drawing(1.5, 1.0, seed) for seed in range(4)}
    said = {asked_with(worker, one) for one in others.values()}
    assert len(said) > 1
    assert asked_with(worker, Drawing(0.0, 1.0, 3)) == offline(QUESTIONS[0], (picture(4),))


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e-38, 1e-9, 1e-6])
def test_however_cold_a_draw_is_it_is_the_likeliest(temperature, worker, offline):
    assert asked_with(worker, Drawing(temperature, 0.9, 3)) == offline(QUESTIONS[0], (picture(4),))


def test_what_fails_of_one_answer_takes_no_other_with_it(worker, offline, monkeypatch):
    real = module.Chooser.choose

    def choose(chooser, said, logits_V):
        if len(said) == 1:
            raise RuntimeError("scores without a sum")
        return real(chooser, said, logits_V)

    monkeypatch.setattr(module.Chooser, "choose", choose)
    bad, unheard = asked(worker.loaded, QUESTIONS[0], (picture(4),), drawing=Drawing(1.0, 1.0, 1))
    good, heard = asked(worker.loaded, QUESTIONS[1], (picture(5),), "prune")
    before = sample_of(worker, "saccade_requests_total", plan="", ended="failed")
    with worker._wake:
        worker.submit(bad)
        worker.submit(good)
    assert heard.answer()[0] == offline(QUESTIONS[1], (picture(5),), "prune")
    with pytest.raises(RequestRefused) as told:
        unheard.answer()
    assert told.value.status == 500
    assert sample_of(worker, "saccade_requests_total", plan="", ended="failed") == before + 1


def test_tokens_of_logits_that_are_no_numbers_are_not_said(worker, offline, monkeypatch):
    real, broken = module.go_on, [math.nan]

    def go_on(*args):
        found = real(*args)
        if broken:
            found.logits_BV[0] = broken.pop()
        return found

    monkeypatch.setattr(module, "go_on", go_on)
    two = [asked(worker.loaded, QUESTIONS[n], (picture(4 + n),)) for n in (0, 1)]
    with worker._wake:
        for one, _ in two:
            worker.submit(one)
    told = []
    for _, heard in two:
        try:
            told.append(heard.answer()[0])
        except RequestRefused as refusal:
            told.append(refusal.status)
            assert "logits are not finite" in str(refusal)
    whole = [offline(QUESTIONS[n], (picture(4 + n),)) for n in (0, 1)]
    assert told in ([500, whole[1]], [whole[0], 500])


def asked_with(worker, drawing):
    one, heard = asked(worker.loaded, QUESTIONS[0], (picture(4),), drawing=drawing)
    worker.submit(one)
    return heard.answer()[0]


def test_the_checkpoint_s_own_penalties_count_the_prompt_s_tokens_without_padding():
    served = build_toy()
    served.model.generation_config.update(repetition_penalty=1.8, min_new_tokens=3)
    want = []
    questions = [(QUESTIONS[0], (picture(1),)), ("red ?", ()), (QUESTIONS[1], (picture(2), picture(3)))]
    for question, images in questions:
        batch = models.inputs(served, [Sample("q", "", "", images, question)])
        made = served.model.generate(**batch, **models.greedy(8))
        want.append(models.answers(served, made, batch["input_ids"].shape[1])[0])
    one = started(served)
    try:
        heard = submitted(one, *questions)
        assert [each.answer()[0] for each in heard] == want
    finally:
        one.close()


def test_more_than_may_wait_are_told_to_come_back():
    one = started(batch=1, queue=2)
    try:
        running, heard = asked(one.loaded, QUESTIONS[0], longest=100_000)
        one.submit(running)
        heard.told.get(timeout=60)
        for _ in range(2):
            one.submit(asked(one.loaded, "red ?")[0])
        with pytest.raises(RequestRefused) as refused:
            one.submit(asked(one.loaded, "red ?")[0])
        assert (refused.value.status, refused.value.retry) == (429, 1)
        running.gone = True
        wait_until(lambda: not one._queue)
    finally:
        one.close()


def test_closing_answers_what_was_taken_and_takes_nothing_more(offline):
    one = started(batch=2)
    pairs = [asked(one.loaded, QUESTIONS[n % 4], (picture(n),)) for n in range(5)]
    for request, _ in pairs:
        one.submit(request)
    closing = threading.Thread(target=one.close)
    closing.start()
    wait_until(lambda: one._closing)
    with pytest.raises(RequestRefused) as refused:
        one.submit(asked(one.loaded, "red ?")[0])
    assert refused.value.status == 503
    for number, (_, heard) in enumerate(pairs):
        assert heard.answer()[0] == offline(QUESTIONS[number % 4], (picture(number),))
    closing.join(60)
    assert not closing.is_alive()


def test_what_fails_in_the_model_fails_for_those_it_was_done_for_alone(offline, monkeypatch):
    one = started()
    try:
        real, broken = module.go_on, [True, False]

        def go_on(*given):
            if broken.pop() if broken else False:
                raise RuntimeError("out of luck")
            return real(*given)

        monkeypatch.setattr(module, "go_on", go_on)
        [heard] = submitted(one, (QUESTIONS[0], (picture(1),), "prune"))
        with pytest.raises(RequestRefused) as refused:
            heard.answer()
        assert refused.value.status == 500 and "luck" not in str(refused.value)
        wait_until(lambda: not sample_of(one, "saccade_running"))
        [heard] = submitted(one, (QUESTIONS[0], (picture(1),), "prune"))
        assert heard.answer()[0] == offline(QUESTIONS[0], (picture(1),), "prune")
    finally:
        one.close()


def test_a_prompt_that_cannot_be_read_does_not_harm_those_beside_it(worker, offline):
    long = "red " * 5000
    bad, good = submitted(worker, (long, (picture(1),), "vskip"), (QUESTIONS[0], (picture(2),), "vskip"))
    with pytest.raises(RequestRefused, match="positions") as refused:
        bad.answer()
    assert refused.value.status == 400
    assert good.answer()[0] == offline(QUESTIONS[0], (picture(2),), "vskip")
    # Nor behind a picture that was read before.
    [bad] = submitted(worker, (long, (picture(2),), "vskip"))
    with pytest.raises(RequestRefused, match="positions"):
        bad.answer()


def test_rows_that_plans_skip_are_counted():
    one = started()
    try:
        for plan in ("", "vskip", "withdraw", "prune"):
            [heard] = submitted(one, (QUESTIONS[0], (picture(9),), plan))
            heard.answer()
        visual, layers = 16, 4

        def counted(plan, part):
            states = ("computed", "skipped")
            return tuple(
                sample_of(one, "saccade_visual_row_layers_total", plan=plan, part=part, state=state)
                for state in states
            )

        assert counted("", "attention") == (visual * layers, 0)
        assert counted("vskip", "attention") == (0, visual * layers)
        assert counted("vskip", "ffn") == (visual * layers, 0)
        assert counted("withdraw", "kv") == (visual, visual * 3)
        assert sum(counted("prune", "kv")) == visual * layers and counted("prune", "kv")[0] == 6 * layers
    finally:
        one.close()


def test_a_healed_plan_is_refused_for_its_weights_would_decode_for_others():
    plan = replace(Plan.of("vtw(layer=1)"), adapter=AdapterRef("adapter", "0" * 16))
    loaded: Any = None
    with pytest.raises(ValueError, match="brings weights of its own"):
        Reader(loaded, {"a": plan}, loaded, loaded)
