"""Choosing rows by score equals sorting in python, image by image."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saccade.core.layout import Layout
from saccade.core.select import count, per_row, ranks, split, top


@st.composite
def batches(draw):
    """Layouts of a few samples with 0 to 3 images, padded to one length, and coarse scores: ties occur."""
    samples = []
    for _ in range(draw(st.integers(1, 3))):
        rows, lengths = [], []
        for _ in range(draw(st.integers(0, 3))):
            rows += [False] * draw(st.integers(0, 2))
            lengths.append(draw(st.integers(1, 6)))
            rows += [True] * lengths[-1]
        samples.append(([*rows, False], lengths))
    longest = max(len(rows) for rows, _ in samples)
    mask = torch.tensor([rows + [False] * (longest - len(rows)) for rows, _ in samples])
    layout = Layout.from_mask(mask, None, [lengths for _, lengths in samples])
    numbers = st.sampled_from([0.0, 0.25, 0.5, 1.0, float("nan"), float("-inf")])
    scores = torch.tensor([[draw(numbers) for _ in range(longest)] for _ in samples])
    gone = torch.tensor([[draw(st.booleans()) for _ in range(longest)] for _ in samples])
    keep = tuple(tuple(draw(st.integers(0, 7)) for _ in lengths) for _, lengths in samples)
    return layout, scores, layout.visual_BN & ~gone, keep


def slowly(layout, scores, candidates, keep):
    """The same by python's sort, which is stable."""
    found = torch.zeros_like(candidates)
    for b, sample in enumerate(keep):
        for image, most in enumerate(sample):
            rows = [n for n in range(layout.rows) if candidates[b, n] and layout.image_BN[b, n] == image]
            value = {n: float(scores[b, n]) if scores[b, n] > -1e30 else -1e30 for n in rows}
            for n in sorted(rows, key=lambda n: -value[n])[:most]:
                found[b, n] = True
    return found


@settings(max_examples=200)
@given(batches())
def test_top_is_pythons_sort(batch):
    layout, scores, candidates, keep = batch
    expected = slowly(layout, scores, candidates, keep)
    assert torch.equal(top(scores, candidates, layout.image_BN, keep), expected)
    assert count(expected, layout.image_BN, keep) == tuple(
        tuple(int((expected[b] & (layout.image_BN[b] == i)).sum()) for i in range(len(sample)))
        for b, sample in enumerate(keep)
    )


@settings(max_examples=100)
@given(batches())
def test_ranks_number_every_image_from_nought_without_gaps(batch):
    layout, scores, candidates, keep = batch
    found = ranks(scores, candidates, layout.image_BN)
    for b, sample in enumerate(keep):
        for image in range(len(sample)):
            rows = candidates[b] & (layout.image_BN[b] == image)
            assert sorted(found[b][rows].tolist()) == list(range(int(rows.sum())))
    assert bool((found[~candidates] == layout.rows).all())
    assert torch.equal(
        per_row(keep, layout.image_BN)[~layout.visual_BN], torch.zeros(int((~layout.visual_BN).sum()))
    )


@given(st.integers(0, 50), st.lists(st.integers(0, 12), max_size=5))
def test_shares_add_up_and_none_exceeds_its_size(total, sizes):
    shares = split(total, tuple(sizes))
    assert sum(shares) == min(total, sum(sizes)) and len(shares) == len(sizes)
    assert all(0 <= share <= size for share, size in zip(shares, sizes, strict=True))
    if sum(sizes):
        exact = [min(total, sum(sizes)) * size / sum(sizes) for size in sizes]
        assert all(abs(share - want) < 1 for share, want in zip(shares, exact, strict=True))
