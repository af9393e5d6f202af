"""The picture of a run, and its lines."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from saccade.training.curve import _smooth, loss_curve


@pytest.mark.parametrize("count", [1, 5, 60])
def test_it_is_a_picture_for_runs_of_any_length(count):
    history = [
        {"step": n + 1, "loss": 2 / (n + 1), "lr": {"projector": 1e-3, "decoder": 1e-5}} for n in range(count)
    ]
    image = Image.open(io.BytesIO(loss_curve(history, "Training glance"))).convert("RGB")
    assert image.width > image.height > 300 and len(set(image.resize((64, 64)).get_flattened_data())) > 5


def test_smoothing_is_an_unbiased_average():
    assert _smooth([3.0] * 5) == pytest.approx([3.0] * 5)
    assert _smooth([1.0, 0.0]) == pytest.approx([1.0, 0.9 / 1.9])
