"""Where the visual rows are."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from saccade.core.layout import Layout

bits = st.lists(st.booleans(), min_size=1, max_size=12)


def mask(text: str) -> torch.Tensor:
    """Rows of ``v`` and anything else, samples separated by spaces."""
    return torch.tensor([[c == "v" for c in part] for part in text.split()])


def test_unbroken_runs_are_images():
    layout = Layout.from_mask(mask("ttvvtvvvt vvtttttvv"))
    assert layout.image_BN.tolist() == [[-1, -1, 0, 0, -1, 1, 1, 1, -1], [0, 0, -1, -1, -1, -1, -1, 1, 1]]
    assert layout.batch == 2 and layout.rows == 9 and layout.has_visual


def test_lengths_tell_adjacent_images_apart():
    layout = Layout.from_mask(mask("tvvvvvt tttttvt"), image_lengths=[[2, 3], [1]])
    assert layout.image_BN.tolist() == [[-1, 0, 0, 1, 1, 1, -1], [-1, -1, -1, -1, -1, 0, -1]]


def test_padding_is_neither_visual_nor_of_an_image():
    real = torch.tensor([[False, False, True, True, True]])
    layout = Layout.from_mask(mask("vvtvt"), real)
    assert layout.visual_BN.tolist() == [[False, False, False, True, False]]
    assert layout.image_BN.tolist() == [[-1, -1, -1, 0, -1]]
    assert layout.real_BN.tolist() == real.tolist()


@given(bits, st.data())
def test_sets_partition_the_rows(row, data):
    real = data.draw(st.lists(st.booleans(), min_size=len(row), max_size=len(row)))
    layout = Layout.from_mask(torch.tensor([row]), torch.tensor([real]))
    assert bool(((layout.visual_BN ^ layout.text_BN) == layout.real_BN).all())
    assert not bool((layout.visual_BN & layout.text_BN).any())
    assert bool(((layout.image_BN >= 0) == layout.visual_BN).all())
    assert not bool((layout.visual_BN & ~layout.real_BN).any())
    ids = layout.image_BN[layout.visual_BN].tolist()
    assert ids == sorted(ids) and set(ids) == set(range(len(set(ids))))
    assert layout.has_visual == bool(ids)


@pytest.mark.parametrize(
    ("visual", "text", "prefix", "start"),
    [(5, 4, 1, 1), (576, 66, None, 33), (576, 100, None, 35), (0, 3, 2, 2)],
)
def test_a_prompt_of_one_image(visual, text, prefix, start):
    layout = Layout.single(visual, text, prefix)
    assert layout.rows == visual + text and int(layout.visual_BN.sum()) == visual
    if visual:
        assert int(layout.visual_BN[0].int().argmax()) == start


@pytest.mark.parametrize(
    "bad",
    [
        lambda: Layout.from_mask(torch.zeros(4)),
        lambda: Layout.from_mask(torch.zeros(2, 3, 1)),
        lambda: Layout.from_mask(torch.zeros(1, 4), torch.ones(1, 5)),
        lambda: Layout.from_mask(mask("tvvt"), image_lengths=[[3]]),
        lambda: Layout.from_mask(mask("tvvt"), image_lengths=[[]]),
        lambda: Layout.single(-1, 4),
        lambda: Layout.single(3, -4),
        lambda: Layout.single(3, 4, 5),
        lambda: Layout.single(3, 4, -1),
    ],
)
def test_nonsense_is_a_value_error(bad):
    with pytest.raises(ValueError):
        bad()


def test_lengths_of_every_sample_are_wanted():
    with pytest.raises(ValueError):
        Layout.from_mask(mask("tvvt tvvt"), image_lengths=[[2]])
