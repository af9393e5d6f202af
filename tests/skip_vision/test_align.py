"""Starting a resampler where the stock projector stands."""

import numpy as np
import pytest
import torch
from PIL import Image

import saccade
from saccade import skip_vision as sv
from saccade.skip_vision import SkipVisionConfig
from saccade.skip_vision.align import align, targets
from saccade.skip_vision.chain_of_sight import Scale


def test_targets_are_means_of_the_rows_in_a_window():
    rows = torch.arange(16.0).view(1, 16, 1)  # a 4 x 4 picture: row r, column c is 4 r + c
    found = targets(rows, (Scale(8, 2), Scale(4, 8), Scale(2, 32)), grid=8)[0, :, 0].tolist()
    assert found[:2] == [3.5, 11.5]
    # Windows of 2 x 2 rows, two tokens each: the upper pair, the lower pair.
    assert found[2:10] == [0.5, 4.5, 2.5, 6.5, 8.5, 12.5, 10.5, 14.5]
    # Windows of one row: both tokens are that row.
    assert found[10:] == [float(r) for r in range(16) for _ in range(2)]
    with pytest.raises(ValueError, match="do not cover whole"):
        targets(rows, (Scale(1, 64),), grid=8)


def pictures(step):
    draw = np.random.default_rng(step)
    return [Image.fromarray(draw.integers(0, 255, (80, 80, 3), dtype=np.uint8)) for _ in range(4)]


def test_it_learns_what_the_projector_says_and_leaves_the_rest_alone():
    config = SkipVisionConfig.from_dict(
        {"row": 0, "layout": "cos", "image_size": 160, "levels": [-2], "scales": [[20, 4], [4, 50]]}
    )
    teacher, loaded = saccade.load("glance"), sv.wrap(saccade.load("glance"), config)
    frozen = {n: p.clone() for n, p in loaded.model.named_parameters() if "language_model" in n}
    wanted = [p.requires_grad for p in loaded.model.parameters()]
    told = []
    align(loaded, teacher, pictures, steps=12, on_step=lambda step, left: told.append(left))
    assert len(told) == 12 and told[-1] < 0.9 * told[0]
    assert [p.requires_grad for p in loaded.model.parameters()] == wanted
    assert all(p.grad is None for p in loaded.model.parameters())
    now = dict(loaded.model.named_parameters())
    assert all(torch.equal(now[name], kept) for name, kept in frozen.items())
    with pytest.raises(ValueError, match="has a resampler"):
        align(teacher, teacher, pictures, steps=1)
