"""Batches of a healing: prompts with answers behind them, in which decisions fall as they do in serving."""

from __future__ import annotations

import pytest
import torch

from saccade.engine import apply
from saccade.families import find
from saccade.healing.batches import CHOSEN, asked_rows, joined
from saccade.methods import METHODS
from saccade.methods.kinds import TRAINED
from saccade.methods.reducer import Reducer
from saccade.plans.plan import Plan
from saccade.training.encode import IGNORE
from saccade.tuning.judge import forced
from support.models import PAD, SQUARE, tiny_gemma3, tiny_llava, tiny_paligemma, tiny_qwen

SAMPLES = [[3, SQUARE, 5], [2, SQUARE, 8], [4, SQUARE, 2]]
TARGETS = [(11, 12, 13, 14), (21,), (31, 32)]
MODELS = {"llava": tiny_llava, "qwen": tiny_qwen}
BOTH_WAYS = {"gemma3": tiny_gemma3, "paligemma": tiny_paligemma}
"""Families whose prompts hold rows that see each other both ways; rows of an answer do not."""
SPECS = {
    "fitprune": "fitprune(layers=1/2/3,left=0.7/0.5/0.4,position_policy=keep)",
    "pool": "pool(factor=2)",
    "tome": "tome(r=4)",
    "resize": "",
    "pyramiddrop": "pyramiddrop(layers=1/2/3)",
}


def spec_of(name: str) -> str:
    """A plan of a reducer that leaves something out in a model of four layers."""
    fields = METHODS[name].__dataclass_fields__
    if name in SPECS:
        return SPECS[name]
    words = {
        "layer": "layer=2",
        "layers": "layers=1/2/3",
        "keep": "keep=0.4",
        "position_policy": "position_policy=keep",
    }
    return f"{name}({','.join(words[key] for key in words if key in fields)})"


REDUCERS = sorted(
    name
    for name, cls in METHODS.items()
    if issubclass(cls, Reducer) and name not in TRAINED and spec_of(name)
)
APART = {("qwen", "tome"), ("llava", "pixelprune")}
"""Methods that work in the vision tower, and a family whose tower does not take them."""
CASES = [(family, spec_of(name)) for name in REDUCERS for family in MODELS if (family, name) not in APART]
CASES += [(family, "fastv(layer=1,keep=0.5)+shortv(layers=2-3)+vskip(layers=1)") for family in MODELS]
CASES += [(family, spec) for family in BOTH_WAYS for spec in ("fastv(layer=1,keep=0.5)", "vskip(layers=1)")]


@pytest.fixture(scope="module")
def tinies():
    return {name: make() for name, make in (MODELS | BOTH_WAYS).items()}


def test_what_stands_where():
    prompts = {
        "input_ids": torch.tensor([[PAD, 5, 6], [7, 8, 9]]),
        "attention_mask": torch.tensor([[0, 1, 1], [1, 1, 1]]),
    }
    found = joined(prompts | {"types": torch.tensor([[0, 0, 1], [1, 0, 0]])}, [(1, 2), (3,)], pad=4)
    assert found["input_ids"].tolist() == [[5, 6, 1], [7, 8, 9]]  # the end of an answer is never read
    assert found["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 1]]
    assert found["types"].tolist() == [[0, 1, 0], [1, 0, 0]]
    assert found[CHOSEN].tolist() == [[IGNORE, 1, 2], [IGNORE, IGNORE, 3]]
    assert asked_rows(found[CHOSEN]).tolist() == [[True, True, False], [True, True, True]]
    longer = joined(prompts, [(1, 2, 9), (3,)], pad=4)
    assert longer["input_ids"].tolist() == [[5, 6, 1, 2], [7, 8, 9, 4]]
    assert longer["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]


@pytest.mark.parametrize(("family", "spec"), CASES)
def test_one_forward_says_what_serving_says_token_by_token(family, spec, tinies):
    tiny = tinies[family]
    model, plan = tiny.model, Plan.of(spec)
    prompts = tiny.batch(SAMPLES, padding="left")
    width = max(map(len, TARGETS)) - 1
    answer_BA = torch.tensor([[*target[:-1], *[PAD] * (width + 1 - len(target))] for target in TARGETS])
    served = forced(find(model), model, prompts, answer_BA, plan)
    given = joined(prompts, TARGETS, PAD, find(model).answer_type)
    chosen_BN = given.pop(CHOSEN)
    with torch.inference_mode(), apply(model, plan) as attached, attached.answering(asked_rows(chosen_BN)):
        logits = model(**given, use_cache=False).logits
    for b, target in enumerate(TARGETS):
        torch.testing.assert_close(
            logits[b][chosen_BN[b] != IGNORE], served[b, : len(target)], atol=2e-4, rtol=1e-3
        )


def test_without_that_word_an_answer_would_decide_too(tinies):
    tiny, plan = tinies["llava"], Plan.of("fastv(layer=1,keep=0.3)")
    given = joined(tiny.batch(SAMPLES, padding="left"), TARGETS, PAD)
    chosen_BN = given.pop(CHOSEN)
    with torch.inference_mode(), apply(tiny.model, plan) as attached:
        seen = tiny.model(**given, use_cache=False).logits
        with attached.answering(asked_rows(chosen_BN)):
            unseen = tiny.model(**given, use_cache=False).logits
        again = tiny.model(**given, use_cache=False).logits
    assert not torch.allclose(seen, unseen, atol=1e-3) and torch.equal(seen, again)


def test_rows_of_another_batch_are_refused(tinies):
    tiny = tinies["llava"]
    with (
        apply(tiny.model, "fastv(layer=1,keep=0.5)") as attached,
        pytest.raises(ValueError, match="rows of the prompts"),
        attached.answering(torch.ones(2, 2, dtype=torch.bool)),
    ):
        tiny.model(**tiny.batch(SAMPLES))
