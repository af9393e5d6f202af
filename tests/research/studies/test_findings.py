"""What findings count and leave out, on made-up numbers."""

from __future__ import annotations

import pytest

from saccade.evaluation.statistics import Interval
from saccade.research.studies import iso_flops, saturation
from saccade.research.studies.tables import kept_table, task_table

FREE, WORSE = Interval(0.0, -0.001, 0.001), Interval(-0.2, -0.21, -0.19)


def pair(name, difference, counts=True):
    """A line with positions kept minus the same closed up."""
    low, high = difference - 0.01, difference + 0.01
    limits = {"difference": difference, "difference_low": low, "difference_high": high}
    return {"first": f"{name}, positions kept", "second": name, "counts": counts, **limits}


def test_closing_up_is_not_judged_where_neither_way_sees():
    lost, guess = pair("FasterVLM at 70 %", 0.3), pair("SparseVLM at 30 %", -0.05, counts=False)
    found = iso_flops.against_kept([lost, guess])
    assert found.verdict == "not supported" and "Of 1 lines 1 are worse" in found.found
    assert "SparseVLM at 30 %" in found.found
    assert iso_flops.against_kept([lost, {**guess, "counts": True}]).verdict == "mixed"


def test_lines_that_close_up_are_told_but_do_not_decide():
    better = Interval(0.1, 0.09, 0.11)
    found = iso_flops.against_chance({False: [better], True: [WORSE, WORSE]}, ["DART at 30 % (25 %)"])
    assert found.verdict == "supported" and "0 are above and 2 below" in found.found
    assert "DART at 30 %" in found.found and "one draw" in found.found


def test_the_last_layer_decides_nothing_about_saturation():
    vig = {"a": [1.0, 0.05, 0.01, 0.0], "b": [1.0, 0.05, 0.01, 0.0]}
    cost = {task: [WORSE, WORSE, WORSE, FREE] for task in vig}
    found = saturation.saturated(vig, cost, 2)
    assert found.verdict == "not supported" and "Of 4 pairs" in found.found
    assert "2 of 2 in the first half" in found.found and "2 of 2 in the second half" in found.found


def test_deep_layers_add_least_without_the_last_one():
    deeper, last_alone = [1.0, 0.5, 0.4, 0.0], [1.0, 0.5, 0.9, 0.0]
    assert saturation.fading({"a": deeper, "b": deeper}, 2).verdict == "supported"
    mixed = saturation.fading({"a": deeper, "b": last_alone}, 2)
    assert mixed.verdict == "mixed" and "in 1 of 2 tasks" in mixed.found
    assert saturation.fading({"a": last_alone}, 2).verdict == "not supported"
    assert saturation.fading({"a": [1.0, 0.0]}, 1).verdict == "undecided"


@pytest.mark.parametrize(("turn", "verdict"), [(1, "supported"), (-1, "not supported")])
def test_the_change_of_attention_is_judged_by_what_skipping_costs(turn, verdict):
    change = {t: [None, 0.9, 0.8, 0.7, 0.65, 0.6] for t in "abc"}
    losses = [0.5, 0.4, 0.3, 0.2, 0.1][::turn]
    # The last layer would turn the order round if it counted.
    cost = {t: [Interval(-loss, -loss, -loss) for loss in [*losses, 9.0 * turn]] for t in "abc"}
    found = saturation.changing(change, cost, 5)
    assert found.verdict == verdict and "4 layers of each task" in found.found
    assert "0.60 and 0.90" in found.found and "does not occur here" in found.found
    still = {t: [None, 0.9, 0.8, 0.7, 0.65, 0.05] for t in "abc"}
    assert "does not occur" not in saturation.changing(still, cost, 5).found


def test_a_mean_over_tasks_has_limits_that_hold_it():
    found = saturation.over_tasks([0.1, 0.2, None, 0.6])
    assert found.value == pytest.approx(0.3) and 0.1 <= found.low < 0.3 < found.high <= 0.6
    assert saturation.over_tasks([0.5]).value is None


def scored(accuracy, half, n=50):
    """A score whose accuracy and retentions lie ``half`` from their limits."""
    found = {"accuracy": accuracy, "low": accuracy - half, "high": accuracy + half / 2, "n": n}
    for name in ("retention", "retention_above_blind"):
        found |= {name: accuracy, f"{name}_low": accuracy - half / 2, f"{name}_high": accuracy + 2 * half}
    return found


def test_tables_by_task_say_how_wide_their_intervals_are():
    def entry(half):
        return {"tasks": {"a": scored(0.5, half), "b": scored(0.6, 0.01, 40)}, "mean": scored(0.55, 0.005)}

    result = {"dense": entry(0.02), "blind": entry(0.03), "plans": [{"name": "one", **entry(0.04)}]}
    told = task_table(result)
    assert "40 to 50 questions of each task" in told
    assert "at most 4.0 points to a side in a task and 0.5 in the mean" in told
    kept = kept_table(result)
    assert "| one | 50 / 50 | 60 / 60 | 55 / 55 |" in kept and "at most 8.0 and 8.0 points" in kept
