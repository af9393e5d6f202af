"""Every method has a group by what it declares, and a plan that fits a model of any depth."""

from __future__ import annotations

import pytest

from saccade.check.groups import (
    BEFORE,
    COMPOSED,
    GROUPS,
    INSIDE,
    MERGED,
    RELEASED,
    RESIZED,
    SKIPPED,
    TOWER,
    cases,
    examples,
    group_of_plan,
    idle,
)
from saccade.methods import METHODS
from saccade.plans.plan import Plan

EXPECTED = {
    SKIPPED: {"vskip", "ffn_skip", "shortv", "vtw", "victor", "skip_vision"},
    TOWER: {"fastervlm", "hiprune", "vispruner"},
    BEFORE: {"cdpruner", "divprune", "random", "uniform"},
    INSIDE: {"fastv", "fitprune", "pyramiddrop", "sparsevlm", "sparsevlm_plus", "dart"},
    MERGED: {"token_merge", "pool", "prumerge", "prumerge_plus", "visionzip", "tome"},
    RESIZED: {"resize"},
    RELEASED: {"skip_vision"},
}


def test_every_method_has_a_group():
    found = cases(12, every=True)
    for group in GROUPS[:-1]:
        names = {case.plan.methods[0].name for case in found if case.group == group}
        assert names >= EXPECTED[group], group
    assert {case.plan.methods[0].name for case in found} == set(METHODS)


@pytest.mark.parametrize("depth", [2, 3, 4, 12, 24, 32, 80])
def test_one_plan_of_every_group_that_fits_the_depth(depth):
    found = cases(depth)
    assert {case.group for case in found} == set(GROUPS)
    assert {case.plan.methods[0].name for case in found if case.group == SKIPPED} == {
        "vskip", "ffn_skip", "shortv", "vtw",
    }  # fmt: skip
    for case in found:
        assert case.plan.resolve(depth) == case.plan
        assert group_of_plan(case.plan, depth) == case.group
    assert [case.group for case in found].count(COMPOSED) == 1


def test_a_model_of_one_layer_has_plans_too():
    assert {case.group for case in cases(1)} >= {SKIPPED, TOWER, BEFORE, MERGED, RESIZED, RELEASED}


def test_turned_down_a_plan_does_nothing():
    for name in METHODS:
        for method in examples(METHODS[name], 12):
            (rests,) = idle(Plan((method,)), 12).methods
            assert rests.name == name and rests.is_resolved
