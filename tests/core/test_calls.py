"""Attention calls show every query what the rule says it sees, and no kernel shows it more."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from saccade.core import calls as module
from saccade.core.calls import blocks
from saccade.core.layout import Layout
from saccade.core.rows import RowIndex
from saccade.core.sight import Sight
from saccade.core.sight_rule import SightRule


def sees(sight: Sight, block: list[int], asks: int, answers: int) -> bool:
    """The rule in plain words, one pair of rows at a time."""
    near = sight.window is None or answers > asks - sight.window
    both = block[asks] == block[answers] >= 0
    if sight.bounded:
        return (answers <= asks or both) and near
    return (answers <= asks and near) or both


@st.composite
def sights(draw, rows: int) -> Sight:
    lengths = draw(st.lists(st.tuples(st.booleans(), st.integers(1, 6)), max_size=6))
    block = [n if held else -1 for n, (held, length) in enumerate(lengths) for _ in range(length)]
    block = (block + [-1] * rows)[:rows]
    window = draw(st.none() | st.integers(1, rows + 2))
    return Sight(window, draw(st.sampled_from([None, torch.tensor([block])])), draw(st.booleans()))


@st.composite
def scenes(draw):
    rows, past = draw(st.integers(1, 24)), draw(st.integers(0, 8))
    mask = torch.tensor([draw(st.lists(st.booleans(), min_size=rows, max_size=rows))])
    return mask.expand(draw(st.integers(1, 2)), -1), past, draw(sights(rows + past))


def block_of(sight: Sight, rows: int) -> list[int]:
    return [-1] * rows if sight.block_BT is None else sight.block_BT[0].tolist()


def shown(call, at: int, key: int) -> bool | None:
    """Whether a call shows a packed query a key; None where its mask says."""
    if not call.first <= key < call.keys:
        return False
    if call.kind == "mask":
        return None
    return call.kind == "all" or key - call.first <= at - call.start


@settings(max_examples=100)
@given(scenes(), st.integers(2, 7), st.booleans())
def test_calls_show_what_the_rule_says(scene, chunk, trimmed):
    mask_BN, past, sight = scene
    asking = mask_BN[0].nonzero()[:, 0].tolist()
    query, block = RowIndex.from_mask(mask_BN), block_of(sight, past + mask_BN.shape[1])
    first = max(0, past - sight.window + 1) if trimmed and sight.window is not None else 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", chunk)
        found = blocks(query, RowIndex.from_mask(torch.ones_like(mask_BN)), past, sight=sight, first=first)
    if query.slices is None:
        assert found is None
        return
    assert [at for call in found for at in range(call.start, call.stop)] == list(range(len(asking)))
    for call in found:
        for at in range(call.start, call.stop):
            for key in range(past + mask_BN.shape[1] - first):
                want, told = sees(sight, block, asking[at] + past, key + first), shown(call, at, key)
                if not (key + first < past and not want):
                    assert told is None or told == want


@settings(max_examples=100)
@given(scenes(), st.integers(2, 7))
def test_packed_rows_are_a_prompt_of_their_own(scene, chunk):
    mask_BN, _, sight = scene
    rows, index = mask_BN[0].nonzero()[:, 0].tolist(), RowIndex.from_mask(mask_BN)
    block = block_of(sight, mask_BN.shape[1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", chunk)
        found = blocks(index, index, same=True, sight=sight)
    assert found is not None
    assert [at for call in found for at in range(call.start, call.stop)] == list(range(len(rows)))
    for call in found:
        for at in range(call.start, call.stop):
            for key in range(len(rows)):
                want, told = sees(sight, block, rows[at], rows[key]), shown(call, at, key)
                assert told is None or told == want


def test_a_set_that_asks_itself_is_a_causal_square():
    index = RowIndex.from_mask(torch.tensor([[True, False, True], [False, False, True]]))
    (call,) = blocks(index, index, same=True)
    assert (call.start, call.stop, call.first, call.keys, call.kind) == (0, 2, 0, 2, "square")
    assert blocks(index, index, past=3, same=True) is None


def test_samples_whose_blocks_differ_share_no_call():
    index = RowIndex.from_mask(torch.ones(2, 4, dtype=torch.bool))
    sight = Sight(None, torch.tensor([[0, 0, -1, -1], [-1, 0, 0, -1]]))
    assert blocks(index, index, same=True, sight=sight) is None
    assert blocks(index, index, past=0, sight=sight) is None


@pytest.mark.parametrize(
    ("window", "bounded", "calls"),
    [(None, True, 5), (100, True, 5), (40, True, 5), (40, False, 5)],
)
def test_no_call_of_a_long_prompt_has_a_mask_of_all_rows(window, bounded, calls):
    """Two images of 30 rows in a prompt of 90 text rows, all of which ask."""
    layout = Layout.from_mask(torch.tensor([[n // 30 % 2 == 1 for n in range(150)]]))
    index = RowIndex.from_mask(layout.real_BN)
    found = blocks(index, index, same=True, sight=SightRule(window, "images", bounded).sight(layout))
    assert len(found) == calls
    masked = [(c.stop - c.start) * (c.keys - c.first) for c in found if c.kind == "mask"]
    if window is None:
        assert len(masked) == 2 and [c.kind for c in found] == ["square", "all", "mask", "all", "mask"]
    assert max(masked, default=0) <= 30 * 150
    if window == 40:
        assert max(c.keys - c.first for c in found) <= 40 + 30 - 1 + 30


def test_a_long_text_run_is_cut_where_a_window_slides():
    index = RowIndex.from_mask(torch.ones(1, 3000, dtype=torch.bool))
    found = blocks(index, index, same=True, sight=Sight(300))
    assert max((c.stop - c.start) * (c.keys - c.first) for c in found) <= 300 * 600
    assert found[0].kind == "square" and {c.kind for c in found[1:]} == {"mask"}
