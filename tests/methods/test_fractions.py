"""How a fraction becomes a number of rows, method by method: as each one's authors round, worked out by hand.

Rows are those of LLaVA-1.5 (576), a SigLIP view of OneVision (729), a typical picture of Qwen-VL (1280) and
five views of LLaVA-NeXT (2880).
"""

from __future__ import annotations

from decimal import ROUND_DOWN, ROUND_HALF_EVEN, Decimal

import pytest

from saccade.core.layout import Layout
from saccade.core.pricing import cost
from saccade.core.shapes import SHAPES
from saccade.plans.plan import Plan

ROWS = (576, 729, 1280, 2880)
NEAREST = {
    "0.05": (29, 36, 64, 144), "0.1": (58, 73, 128, 288), "0.111": (64, 81, 142, 320),
    "0.222": (128, 162, 284, 639), "0.25": (144, 182, 320, 720), "0.3333": (192, 243, 427, 960),
    "0.5": (288, 364, 640, 1440), "0.75": (432, 547, 960, 2160),
}  # fmt: skip
"""Of two numbers that are as near (364.5) the even one, as Python's ``round``."""
DOWN = {
    "0.05": (28, 36, 64, 144), "0.1": (57, 72, 128, 288), "0.111": (63, 80, 142, 319),
    "0.222": (127, 161, 284, 639), "0.25": (144, 182, 320, 720), "0.3333": (191, 242, 426, 959),
    "0.5": (288, 364, 640, 1440), "0.75": (432, 546, 960, 2160),
}  # fmt: skip
EXTRA = {share: tuple(n + 1 for n in counts) for share, counts in DOWN.items()}
"""Patches rounded down, and the row of all that were pruned."""
EIGHTHS = {
    "0.05": (28, 36, 68, 148), "0.1": (60, 76, 132, 292), "0.111": (60, 84, 140, 316),
    "0.222": (124, 164, 284, 636), "0.25": (148, 180, 324, 724), "0.3333": (188, 244, 428, 956),
    "0.5": (292, 364, 644, 1444), "0.75": (436, 548, 964, 2164),
}  # fmt: skip
"""Four visual pivots, and what each of eight pivots takes: an eighth, rounded down."""
TABLE = {
    "fastv(keep={})": NEAREST,
    "divprune(keep={})": NEAREST,
    "cdpruner(keep={})": NEAREST,
    "hiprune(keep={})": DOWN,
    "fastervlm(keep={})": NEAREST,
    "vispruner(keep={})": NEAREST,
    "visionzip(dominant={},contextual=0)": DOWN,
    "prumerge(keep={})": EXTRA,
    "prumerge_plus(keep={})": EXTRA,
    "dart(keep={})": EIGHTHS,
    "pyramiddrop(layers=8,keep={})": DOWN,
    "fitprune(layers=8,left={})": NEAREST,
    "token_merge(keep={})": DOWN,
    "random(keep={})": DOWN,
    "uniform(keep={})": DOWN,
}


def left(spec: str, rows: int) -> int:
    """Visual rows that the last layer of a model has, by the closed form."""
    layout = Layout.single(rows, 64)
    route = Plan.of(spec).route(layout, 32)
    return int((route.layers[31].alive_BN & layout.visual_BN).sum())


@pytest.mark.parametrize("spec", TABLE)
def test_fractions_are_rounded_as_the_authors_round(spec):
    for share, counts in TABLE[spec].items():
        assert tuple(left(spec.format(share), rows) for rows in ROWS) == counts, share


def test_the_tables_are_what_exact_arithmetic_says():
    for table, rounding in ((NEAREST, ROUND_HALF_EVEN), (DOWN, ROUND_DOWN)):
        for share, counts in table.items():
            assert counts == tuple(int((Decimal(share) * n).to_integral_value(rounding)) for n in ROWS)
    for share, counts in EIGHTHS.items():
        assert counts == tuple(4 + 8 * int(Decimal(share) * n / 8) for n in ROWS)


def test_two_kinds_of_rows_are_rounded_down_each():
    for rows, count in zip(ROWS, (374 + 28, 473 + 36, 832 + 64, 1872 + 144), strict=True):
        assert left("visionzip(dominant=0.65,contextual=0.05)", rows) == count


def test_each_stage_rounds_its_power_down():
    spec = "pyramiddrop(keep=0.5)"
    assert [left(spec, rows) for rows in ROWS] == [72, 91, 160, 360]


@pytest.mark.parametrize("spec", [*TABLE, "sparsevlm(tokens={})", "sparsevlm_plus(tokens={})"])
def test_a_fraction_is_never_of_nothing_and_all_is_all(spec):
    if not spec.startswith("sparsevlm"):
        low = 4 if spec.startswith("dart") else 2 if spec.startswith("prumerge") else 1
        assert left(spec.format("0.0001"), 576) == low
    assert left(spec.format("1"), 576) == 576


@pytest.mark.parametrize("spec", TABLE)
def test_the_price_follows_the_count(spec):
    """Equivalent tokens are the mean of what the layers have, from the first that the method cuts before."""
    layout, shape = Layout.single(576, 64), SHAPES["llava-1.5-7b"]
    route = Plan.of(spec.format("0.1")).route(layout, 32)
    first = next(n for n, one in enumerate(route.layers) if not one.is_dense)
    expected = (first * 576 + (32 - first) * TABLE[spec]["0.1"][0]) / 32
    assert cost(shape, route).equivalent_tokens == pytest.approx(expected)
