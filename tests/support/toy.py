"""A tiny random Glance that speaks."""

from __future__ import annotations

from pathlib import Path

import torch

from saccade import models
from saccade.glance.model import GlanceConfig, build_model
from saccade.glance.tokenizer import build_processor


def build_toy() -> models.Loaded:
    """A random Glance of four small layers, loud enough that skipping changes answers."""
    sizes = GlanceConfig(layers=4, width=48, heads=2, mlp=64, image_size=32)
    model = build_model(sizes, seed=3).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "language_model.layers" in name and weight.ndim == 2:
                weight.mul_(12)
    return models.wrap(model, build_processor(sizes.image_size, sizes.patch), "toy")


def save_toy(folder: Path) -> Path:
    """Writes the toy as a model folder."""
    toy = build_toy()
    toy.model.save_pretrained(folder)
    toy.processor.save_pretrained(folder)
    return folder
