"""The published points: each at the same share of layers, depth and rows, and judged as its text says."""

from __future__ import annotations

import random

import pytest

from saccade.core.bipartite import merged_away
from saccade.evaluation.statistics import mean_retention
from saccade.methods import METHODS
from saccade.plans.plan import Plan
from saccade.research.published import LAYERS, ROWS, Point, path, points
from saccade.research.studies.realism import before, falling, findings, layers_of, pairs, rank, spec_of

DEPTH, TOWER, PATCHES = 12, 6, 400


def test_every_point_names_a_method_a_table_and_what_was_kept():
    found = points()
    assert len(found) >= 40 and len({point.name for point in found}) == len(found)
    assert path().name == "published.toml"
    for point in found:
        assert all(name in METHODS for name in point.method.split("+"))
        assert "able" in point.source or "V-Skip" in point.source
        assert 0.5 < point.retention < 1.01
        assert point.layers or point.depth or point.rows
        assert (point.rows or 1) < ROWS and (point.layers or 1) <= LAYERS


@pytest.mark.parametrize("point", points(), ids=lambda point: point.name)
def test_a_point_becomes_a_plan_of_the_same_shares(point: Point):
    if point.layers:
        assert layers_of(point, LAYERS) == point.layers
        assert abs(layers_of(point, DEPTH) / DEPTH - point.layers / LAYERS) <= 0.5 / DEPTH
    if point.rows is None and point.depth is None:
        return
    plan = Plan.of(spec_of(point, DEPTH, TOWER, PATCHES))
    (method,) = plan.methods
    assert method.name == point.method.split("+")[0]
    if point.depth:
        assert method.layer == before(point, DEPTH)  # type: ignore[attr-defined]
        assert before(point, LAYERS) == max(2, point.depth)


@pytest.mark.parametrize("share", [1 / 3, 0.4, 0.5, 1.0])
def test_pyramiddrops_ratio_leaves_the_share_on_average(share):
    ratio = falling(share)
    assert (1 + ratio + ratio**2 + ratio**3) / 4 == pytest.approx(share, abs=1e-6)


def test_tomes_pairs_leave_about_the_share():
    for share in (1 / 3, 2 / 9, 1 / 9):
        tokens = PATCHES + 1
        for _ in range(TOWER):
            tokens -= merged_away(tokens, pairs(share, TOWER, PATCHES), protected=1)
        assert abs((tokens - 1) / PATCHES - share) < 0.03


def test_mean_retention_is_the_mean_of_ratios_and_its_limits_those_of_resampling():
    rng = random.Random(0)
    tasks = [[(float(rng.random() < p), float(rng.random() < d)) for _ in range(300)]
             for p, d in ((0.5, 0.9), (0.3, 0.4), (0.9, 0.95))]  # fmt: skip
    found = mean_retention(tasks)
    ratios = [sum(a for a, _ in task) / sum(d for _, d in task) for task in tasks]
    assert found.value == pytest.approx(sum(ratios) / 3)
    draws = []
    for _ in range(1500):
        drawn = [rng.choices(task, k=len(task)) for task in tasks]
        draws.append(sum(sum(a for a, _ in task) / sum(d for _, d in task) for task in drawn) / 3)
    draws.sort()
    assert found.low == pytest.approx(draws[37], abs=0.012) and found.high == pytest.approx(
        draws[1462], abs=0.012
    )
    assert mean_retention([[(1.0, 0.0)]]).value is None
    with pytest.raises(ValueError, match="at least one sample"):
        mean_retention([[]])


def row(name: str, budget: str, published: float, kept: float | None) -> dict:
    near = kept is not None and abs(kept - published) <= 0.04
    return {"name": name, "budget": budget, "published": published, "retention": kept, "near": near}


def test_order_is_judged_at_budgets_with_three_methods_and_closeness_over_all_points():
    rows = [
        row("a", "x", 0.9, 0.91),
        row("b", "x", 0.8, 0.82),
        row("c", "x", 0.7, 0.5),
        row("d", "y", 0.9, None),
    ]
    ranks = rank(rows)
    assert ranks == {"x": {"methods": 3, "spearman": pytest.approx(1.0)}}
    near, order = findings(rows, ranks)
    assert near.verdict == "not supported" and "2 of 4 points do; 1 cannot run here" in near.found
    assert "c: 50.0 % against 70.0 %" in near.found
    assert order.verdict == "supported" and "x: 1.00 (3 points)" in order.found
    rows[2]["near"] = True
    assert findings(rows, ranks)[0].verdict == "supported"
    turned = rank([row("a", "x", 0.9, 0.5), row("b", "x", 0.8, 0.6), row("c", "x", 0.7, 0.7)])
    assert findings(rows, turned)[1].verdict == "not supported"
