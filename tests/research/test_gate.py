"""The gate: its yardsticks do what they say, and its judgements follow from the figures."""

import json

import pytest
import torch

from saccade.engine import apply
from saccade.evaluation import compare
from saccade.evaluation.by_task import compare_by_task
from saccade.evaluation.results import Comparison, Prediction, score
from saccade.research import gate
from saccade.system.journal import Journal


def test_the_crude_plans_run_on_a_model_and_change_what_it_says(llava):
    inputs = llava.batch([[3, (24, 24), 5]])
    with torch.no_grad():
        dense = llava.model(**inputs).logits[:, -1]
        for name, plan in gate.crude_plans(4).items():
            with apply(llava.model, plan):
                assert not torch.allclose(llava.model(**inputs).logits[:, -1], dense), name


def fake(**shares: int) -> Comparison:
    """A comparison over 100 questions where each plan gets its share right, dense 90 and blind 30."""

    def predictions(share: int) -> list[Prediction]:
        return [Prediction(str(i), "t", "a", "a", i < share) for i in range(100)]

    dense, blind = predictions(90), predictions(30)
    plans = {name: score(name, name, predictions(share), dense, blind) for name, share in shares.items()}
    return Comparison(score("dense", "dense", dense, dense, blind), None, plans)


def test_a_loss_must_be_large_and_outside_the_interval():
    found = fake(much=60, little=87, none=90, some=84)
    crude, last = (
        gate.judge_losses(found, ["much", "little"], ["none", "some"])[:2],
        gate.judge_losses(found, [], ["none", "some"]),
    )
    assert [line.passed for line in crude] == [True, False]
    assert "-30.0 points" in crude[0].found
    assert [line.passed for line in last] == [True]
    assert not gate.judge_losses(found, [], ["none", "little"])[0].passed


def test_vig_must_spread_over_a_quarter_of_the_layers():
    assert gate.judge_layers([1.0, 0.2, 0.0, 0.0, 0.05, 0.0, 0.0, 0.0]).passed
    assert not gate.judge_layers([1.0, 0.05, 0.0, 0.0, 0.05, 0.0, 0.0, 0.0]).passed
    assert not gate.judge_layers([0.0] * 4).passed


def test_orders_must_differ_between_tasks_beyond_noise():
    rising, falling = [[1.0, 2, 3, 4]] * 4, [[4.0, 3, 2, 1]] * 4
    assert gate.judge_orders({"a": rising, "b": falling}).passed
    assert not gate.judge_orders({"a": rising, "b": rising}).passed
    noisy = [[1.0, 2, 3, 4], [4.0, 3, 2, 1]] * 2  # halves of one task disagree as much as two tasks do
    assert not gate.judge_orders({"a": noisy, "b": noisy}).passed


def test_sixty_percent_of_the_layers_by_each_methods_own_order():
    plans = gate.skipping_plans(5, {"vig": (4, 0, 1, 2, 3), "ffn": (4, 3, 2, 1, 0), "lc": (0, 1, 2, 3, 4)})
    chosen = [(plan.methods[0].name, plan.methods[0].layers) for plan in plans.values()]
    assert chosen == [("vskip", (0, 1, 4)), ("ffn_skip", (2, 3, 4)), ("shortv", (0, 1, 2))]


def test_task_by_task_equals_all_at_once_and_resumes(toy, questions, tmp_path):
    plans = gate.crude_plans(4)
    tasks = sorted({s.task for s in questions})
    drawn = []

    def draw(task):
        drawn.append(task)
        return [s for s in questions if s.task == task]

    settings = dict(batch_size=4, max_new_tokens=3)
    whole = compare(toy.model, toy.processor, questions, plans, **settings).to_dict()
    path = tmp_path / "cells.jsonl"
    for _ in range(2):
        found = compare_by_task(toy, tasks, draw, plans, ledger=path, **settings).to_dict()
        assert found["dense"] == whole["dense"]
        assert [e["mean"] for e in found["plans"]] == [e["mean"] for e in whole["plans"]]
    assert drawn == tasks * 2
    kept = [json.loads(line) for line in path.read_text().splitlines()]
    assert sum("settings" in line for line in kept) == len(tasks)
    batches = sum(-(-len(draw(task)) // 4) for task in tasks)
    assert sum("answers" in line for line in kept) == batches * (2 + len(plans))
    with Journal(path) as journal:
        compare_by_task(toy, tasks, draw, plans, ledger=journal, **settings)
        assert journal.finish() == "" and not path.exists()


@pytest.mark.parametrize(
    ("a", "b", "rho"),
    [
        ([1.0, 2, 2, 3], [1.0, 2, 3, 4], 4.5 / (4.5 * 5) ** 0.5),  # ranks 1, 2.5, 2.5, 4
        ([1.0, 2, 2, 3], [5.0, 7, 7, 9], 1.0),
        ([0.0, 0, 0, 1], [3.0, 1, 2, 4], 3 / (3 * 5) ** 0.5),  # ranks 2, 2, 2, 4
        ([1.0, 2, 3, 4], [4.0, 3, 2, 1], -1.0),
        ([1.0, 1, 1, 1], [1.0, 2, 3, 4], 0.0),
    ],
)
def test_equal_values_share_the_mean_of_their_ranks(a, b, rho):
    for one, other in ((a, b), (b, a), (a[::-1], b[::-1])):  # whichever comes first
        found = gate.rank_correlation(torch.tensor(one).double(), torch.tensor(other).double())
        assert found == pytest.approx(rho)
