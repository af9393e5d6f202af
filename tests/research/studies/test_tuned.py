"""The study of tuned plans runs at a small size, and every way gets as many passes."""

from __future__ import annotations

import json

import pytest

from research.studies.conftest import TOKENS
from saccade.cli.common import plain
from saccade.research.studies import STUDIES, Store, StudyBench, run, sampled, tuned, tuned_on
from saccade.tuning.space import Menu


@pytest.fixture(scope="module")
def small():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuned, "RATIOS", (0.7,))
        patch.setattr(tuned, "SAMPLES", 8)
        patch.setattr(tuned, "PASSES", 8)
        patch.setattr(tuned, "SINGLE", 1)
        patch.setattr(tuned, "singles", lambda *given: {})
        patch.setattr(tuned, "WAYS", tuple(
            tuned.TuningWay(way.name, tuple(name for name in way.allow if name in ("freeze", "reduce")))
            for way in tuned.WAYS
        ))  # fmt: skip
        yield


@pytest.mark.e2e
def test_it_runs_tells_and_draws(loaded, questions, shared, small):
    bench = StudyBench(loaded, questions, Store(shared), tokens=TOKENS)
    result = run(STUDIES["tuned"], bench, 4)
    read = json.loads(json.dumps(plain(result)))
    ran = [entry for entry in read["plans"] if entry.get("mean")]
    assert {entry["way"] for entry in ran} >= {tuned.TUNED, tuned.KEEPS, tuned.ALONE}
    assert all(entry["reason"] for entry in read["plans"] if not entry.get("mean"))
    assert all(one["ratio"] <= 0.7 for one in read["search"]["found"])
    assert len(read["findings"]) == 4 and {row["way"] for row in read["beside"]} >= {tuned.KEEPS}
    assert "Tuned minus the best" in tuned.tell(read)
    assert tuned.draw(read)["accuracy"].startswith(b"\x89PNG")


@pytest.mark.e2e
def test_few_samples_and_halves_are_held_against_a_search_over_all(loaded, questions, shared, small):
    bench = StudyBench(loaded, questions, Store(shared), tokens=TOKENS)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "SIZES": (4,),
            "DRAWS": 2,
            "MOST": 6,
            "PASSES": 60,
            "WAYS": tuned.WAYS[:1],
        }.items():
            patch.setattr(tuned_on, name, value)
        result = run(STUDIES["tuned-on"], bench, 4)
    read = json.loads(json.dumps(plain(result)))
    assert read["searches"][sampled.POOL]["samples"] == 6 and all(
        one["ratio"] <= tuned_on.RATIO for one in read["searches"].values()
    )
    assert read["groups"]["4 samples"]["draws"] == 2 and tuned_on.HALVES not in read["groups"]
    for row in read["unseen"]:
        assert not set(row["tasks"]) & set(read["searches"][row["first"]]["tasks"])
    told = tuned_on.tell(read)
    assert "never saw" in told and tuned_on.half_name(1) in told
    assert tuned_on.draw(read)["draws"].startswith(b"\x89PNG")


def test_halves_share_no_task():
    assert tuned_on.halves(("a", "b", "c")) == (("a", "c"), ("b",)) and tuned_on.halves(("a",)) == ()


def test_random_states_are_distinct_and_repeat():
    menu = Menu(6, ("ffn", "freeze"))
    first, again = (tuned.drawn(menu, lambda state: state, 20, 3) for _ in range(2))
    assert first == again and len({state.plan.spec for state in first}) == len(first) == 20
