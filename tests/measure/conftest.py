"""A toy decoder for the measuring code."""

from __future__ import annotations

import pytest
import torch

from saccade.core.shapes import SHAPES, Experts, ModelShape, Recurrent, ShortConv
from saccade.measure import target

SIZES = {
    "llava": ModelShape("toy-llava", 3, 64, 4, 4, 16, 128, 256, 24),
    "llava_next": ModelShape("toy-next", 3, 64, 4, 4, 16, 128, 256, 40),
    "llava_next_video": ModelShape("toy-next-video", 3, 64, 4, 4, 16, 128, 256, 40),
    "qwen2_5_vl": ModelShape("toy-qwen", 3, 64, 4, 2, 16, 128, 256, 24),
    "qwen3_vl": ModelShape("toy-qwen3", 3, 64, 4, 2, 16, 128, 256, 24),
    "llava_onevision": ModelShape("toy-onevision", 3, 64, 4, 2, 16, 128, 256, 40),
    "internvl": ModelShape("toy-internvl", 3, 64, 4, 2, 16, 128, 256, 36),
    "qwen3_vl_moe": ModelShape("toy-moe", 3, 64, 4, 2, 16, 128, 256, 24, experts=Experts(8, 2, 64)),
    "idefics3": ModelShape("toy-idefics3", 3, 64, 4, 2, 16, 128, 256, 36),
    "mistral3": ModelShape("toy-mistral3", 3, 64, 4, 2, 16, 128, 256, 24),
    "llava+pixtral": ModelShape("toy-pixtral", 3, 64, 4, 2, 16, 128, 256, 24),
    "qwen3_5": ModelShape(
        "toy-qwen3_5", 3, 64, 4, 2, 16, 128, 256, 24, gated=True, recurrent=Recurrent((0,), 2, 4, 8, 8, 4)
    ),
    "qwen3_5_moe": ModelShape(
        "toy-qwen3_5-moe",
        3,
        64,
        4,
        2,
        16,
        96,
        256,
        24,
        gated=True,
        recurrent=Recurrent((0,), 2, 4, 8, 8, 4),
        experts=Experts(4, 2, 32, 32, weighed=True),
    ),
    "lfm2_vl": ModelShape(
        "toy-lfm2", 3, 64, 4, 2, 16, 128, 256, 24, recurrent=ShortConv((0,), width=64, kernel=3)
    ),
    "glm4v_moe": ModelShape(
        "toy-glm-moe", 3, 64, 4, 2, 16, 96, 256, 24, experts=Experts(4, 2, 32, 32), plain=(0,), plain_ffn=128
    ),
    "llama4": ModelShape(
        "toy-llama4",
        3,
        64,
        4,
        2,
        16,
        96,
        256,
        24,
        experts=Experts(4, 1, 48, 48, all_run=True),
        plain=(0, 2),
        plain_ffn=80,
    ),
    "molmo2": ModelShape("toy-molmo2", 3, 64, 4, 2, 16, 128, 256, 24),
    "glm4v": ModelShape("toy-glm", 3, 64, 4, 2, 16, 128, 256, 24),
}


def built(kind: str, monkeypatch) -> target.Target:
    """A toy with random weights, built as a bench builds a preset."""
    shape = SIZES[kind]
    monkeypatch.setitem(SHAPES, shape.name, shape)
    monkeypatch.setitem(target.FAMILY_OF, shape.name, kind)
    return target.build(
        shape.name, layers=None, batch=1, rows=64, dtype=torch.float32, device=torch.device("cpu")
    )


@pytest.fixture
def toy(monkeypatch) -> target.Target:
    """A toy LLaVA."""
    return built("llava", monkeypatch)


@pytest.fixture(params=sorted(SIZES))
def each_toy(request, monkeypatch) -> target.Target:
    """A toy of each family in turn."""
    return built(request.param, monkeypatch)
