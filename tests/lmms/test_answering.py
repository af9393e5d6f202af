"""Many questions at once are answered as each would be alone."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import saccade
from saccade.evaluation.runner import mean_cost
from saccade.lmms.answering import Asker, SuiteQuestion, batches
from saccade.lmms.conversation import ChatMessages
from saccade.lmms.generation import Generation
from saccade.plans.plan import Plan
from saccade.skip_vision import SkipVisionConfig, wrap

SHORT = Generation.read({"max_new_tokens": 4})
LONG = Generation.read({"max_new_tokens": 9})


def refuse() -> ChatMessages:
    raise AssertionError("nothing has to be read to make batches")


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 50), st.sampled_from([SHORT, LONG]))),
    st.integers(1, 9),
)
def test_batches_hold_every_question_once_and_like_with_like(kinds, size):
    asked = [SuiteQuestion(task, length, wanted, refuse) for task, length, wanted in kinds]
    found = list(batches(asked, size))
    assert sorted(i for batch in found for i in batch) == list(range(len(asked)))
    for batch in found:
        assert 1 <= len(batch) <= size
        assert len({(asked[i].task, asked[i].generation) for i in batch}) == 1
    # No batch is short but the last of its kind.
    small = [batch for batch in found if len(batch) < size]
    assert len(small) <= len({(q.task, q.generation) for q in asked})


@pytest.fixture(scope="module")
def asked():
    """Ragged questions: none, one or two images, short and long texts, two settings."""
    rng = np.random.default_rng(1)
    made = []
    for i in range(9):
        pictures = [Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)) for _ in range(i % 3)]
        text = "what color is the circle ?" + " yes" * (i % 4)
        content = [{"type": "image", "url": p} for p in pictures] + [{"type": "text", "text": text}]
        conversation = ChatMessages.read([{"role": "user", "content": content}])
        made.append(SuiteQuestion(f"t{i % 2}", len(text), LONG if i > 5 else SHORT, lambda c=conversation: c))
    return made


@pytest.mark.parametrize("spec", ["", "vskip(layers=1-2)", "fastv(layer=2,keep=0.5)", "resize(scale=0.5)"])
def test_batches_answer_as_singles_do_in_the_order_of_the_questions(toy, asked, spec):
    plan = Plan.of(spec)
    done = []
    together = Asker(toy, plan, batch_size=4)
    texts = together.ask(asked, done.append)
    assert sum(done) == len(asked) and max(done) <= 4
    alone = Asker(toy, plan)
    assert texts == [alone.ask([question])[0] for question in asked]
    assert len(set(texts)) > 1
    # What prompts cost does not depend on how they were batched.
    (n, cost), (m, same) = together.cost(), alone.cost()
    assert n == m == len(asked)
    assert cost["dense_gflops"] == pytest.approx(same["dense_gflops"])
    assert (cost["flops_ratio"] < 1) == bool(spec) and cost["visual_tokens"] == pytest.approx(
        same["visual_tokens"]
    )


def test_the_blind_model_answers_by_the_question_alone(toy, asked):
    pairs = [q for q in asked if q.load().images]
    counts = Counter(Asker(toy, blind=True).ask([q])[0] for q in pairs if q.generation is SHORT)
    again = [
        SuiteQuestion(
            q.task, q.length, SHORT, lambda q=q: ChatMessages(q.load().messages, q.load().images[::-1])
        )
        for q in pairs
        if q.generation is SHORT
    ]
    assert Counter(Asker(toy, blind=True, batch_size=8).ask(again)) == counts


def test_answers_end_where_the_task_says(toy, asked):
    text = Asker(toy).ask(asked[6:7])[0]
    stop = text.split()[1]
    wanted = Generation.read({"max_new_tokens": 9, "until": [stop]})
    short = Asker(toy).ask([SuiteQuestion("t", 1, wanted, asked[6].load)])[0]
    assert stop not in short and text.startswith(short)


def test_a_plan_that_cannot_run_is_refused_before_anything_is_asked(toy):
    with pytest.raises(ValueError, match="does not know its layers"):
        Asker(toy, Plan.of("vskip(budget=2)"))
    with pytest.raises(ValueError, match="layer 9"):
        Asker(toy, Plan.of("vskip(layers=9)"))


def test_nothing_asked_costs_nothing(toy):
    asker = Asker(toy)
    assert asker.ask([]) == [] and asker.cost() == (0, {})


def test_a_model_with_a_plan_of_its_own_is_priced_by_it():
    config = SkipVisionConfig(retained=20, merged=10, cache="small")
    loaded = wrap(saccade.load("glance"), config)
    picture = Image.new("RGB", (80, 80), "red")
    content = [{"type": "image", "url": picture}, {"type": "text", "text": "How many shapes are there?"}]
    words = ChatMessages.read([{"role": "user", "content": content}])
    asker = Asker(loaded)
    asker.ask([SuiteQuestion("t", 1, SHORT, lambda: words)])
    count, found = asker.cost()
    assert count == 1 and found["flops_ratio"] == 1
    assert found["gflops"] < mean_cost(loaded, Plan(), asker._prompts)["gflops"]


@pytest.mark.parametrize("spec", ["", "fastv(layer=2,keep=0.5)"])
def test_settings_reach_the_model(toy, asked, spec):
    def answer(**settings) -> list[str]:
        wanted = Generation.read({"max_new_tokens": 6} | settings)
        torch.manual_seed(settings.get("max_new_tokens", 0))
        questions = [SuiteQuestion("t", q.length, wanted, q.load) for q in asked[:4]]
        return Asker(toy, Plan.of(spec), batch_size=4).ask(questions)

    greedy = answer()
    assert greedy == answer(temperature=0, top_p=1.0, num_beams=1, do_sample=False)
    assert greedy == answer(do_sample=True, top_k=1)
    hot = answer(temperature=50.0)
    assert hot == answer(temperature=50.0) != greedy
    assert answer(num_beams=3, until=["nosuch"]) == answer(num_beams=3) != greedy
    assert all(text.startswith(short) for short, text in zip(answer(max_new_tokens=2), greedy, strict=True))
