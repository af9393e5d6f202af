"""Plain generate and lmms-eval give the same answers and the same scores on the same questions of Glance."""

from __future__ import annotations

import json

import pytest
from e2e.lmms.support import accuracy, answers, lmms_eval, plain, saccade

from saccade.glance import suite
from saccade.lmms import write_tasks

TASKS = ("count", "list", "relation")
N = 7  # odd, so that two processes get unequal shares
PLAN = "vskip(layers=3,4)+fastv(layer=5,keep=0.5)"

# Each run of lmms-eval imports for a while; a busy machine takes minutes for several.
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def samples():
    return {task: suite.samples(task, N) for task in TASKS}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    return write_tasks(tmp_path_factory.mktemp("tasks"), N, tasks=TASKS)


@pytest.fixture(scope="module")
def stock(loaded, samples):
    return {plan: {task: plain(loaded, samples[task], plan) for task in TASKS} for plan in ("", PLAN)}


@pytest.mark.parametrize(("batch", "processes"), [(1, 1), (8, 1), (8, 2)])
@pytest.mark.parametrize("plan", ["", PLAN])
def test_answers_and_scores_are_those_of_plain_generate(
    tmp_path, tasks, samples, stock, plan, batch, processes
):
    # Both ways of writing a spec's commas are taken.
    written = f'"{plan}"' if batch == 1 else plan.replace(",", ";")
    results = lmms_eval(
        tmp_path, "--tasks", ",".join(f"glance_{task}" for task in TASKS), "--include_path", tasks,
        "--batch_size", batch, processes=processes, arguments=f"pretrained=glance,plan={written}",
    )  # fmt: skip
    found = json.loads(results.read_text())["results"]
    for task in TASKS:
        assert answers(results, f"glance_{task}") == stock[plan][task]
        want = accuracy(stock[plan][task], samples[task])
        assert found[f"glance_{task}"]["accuracy,none"] == pytest.approx(want)
    assert stock[""] != stock[PLAN], "a plan that changes nothing would prove nothing"


def test_saccade_eval_says_the_same_through_lmms_eval_and_without_it():
    words = ("eval", "glance", "--samples", N, "--plan", PLAN, "--json", "-", "--device", "cpu")
    code, through, err = saccade(*words, "--suite", "lmms:glance_count,glance_relation", "--batch", 8)
    assert code == 0, err
    code, ours, err = saccade(*words, "--task", "count", "--task", "relation")
    assert code == 0, err
    pairs = [(through["dense"], ours["dense"]), (through["blind"], ours["blind"])]
    for theirs, own in [*pairs, (through["plans"][0], ours["plans"][0])]:
        for task in ("count", "relation"):
            found = dict(theirs["tasks"][f"glance_{task}"])
            assert (found.pop("metric"), found.pop("metrics")) == (
                "accuracy",
                {"accuracy": found["accuracy"]},
            )
            assert found == pytest.approx(own["tasks"][task])
        assert theirs["mean"] == pytest.approx(own["mean"])
    costs = through["plans"][0]["cost"], ours["plans"][0]["cost"]
    assert costs[0] == pytest.approx(costs[1])
