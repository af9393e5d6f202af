"""A text-only sample beside an image sample takes no saving away."""

from __future__ import annotations

import pytest
import torch

from saccade.core.layout import Layout
from saccade.core.rows import RowIndex
from saccade.plans.plan import Plan

VISUAL, TEXT = 20, 8


@pytest.fixture
def ragged() -> Layout:
    rows = VISUAL + TEXT
    visual, real = torch.zeros(2, rows, dtype=torch.bool), torch.ones(2, rows, dtype=torch.bool)
    visual[0, 3 : 3 + VISUAL] = True
    real[1, : rows - 5] = False
    return Layout.from_mask(visual, real)


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("vskip(layers=0)", "query_BN"),
        ("ffn_skip(layers=0)", "ffn_BN"),
        ("shortv(layers=0)", "query_BN"),
        ("vtw(layer=0)", "alive_BN"),
    ],
)
def test_padding_leaves_with_the_visual_rows(ragged, spec, name):
    rows = RowIndex.from_mask(getattr(Plan.of(spec).route(ragged, 1).layers[0], name))
    assert rows.count == TEXT
    assert len(rows.flat_T) == TEXT + 5
