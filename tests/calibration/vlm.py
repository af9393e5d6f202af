"""A random miniature of the embedded model, saved as any model folder is, and questions to ask it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from saccade.glance.model import GlanceConfig, build_model
from saccade.glance.tokenizer import build_processor
from saccade.inputs.samples import Sample

LAYERS = 4


def save_model(folder: Path, layers: int = LAYERS, seed: int = 0) -> Path:
    """Writes a random model whose layers all matter, with its processor."""
    model = build_model(GlanceConfig(layers=layers, width=32, heads=2, mlp=48), seed=seed)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.model.language_model.parameters():
            if parameter.ndim > 1:
                scale = 1.2 * parameter.shape[1] ** -0.5
                parameter.copy_(scale * torch.randn(parameter.shape, generator=draw))
    model.save_pretrained(folder)
    build_processor().save_pretrained(folder)
    return folder


def picture(seed: int) -> Image.Image:
    """An image of noise."""
    noise = np.random.default_rng(seed).integers(0, 256, (80, 80, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def question(number: int, images: int = 1, task: str = "mine", subtask: str = "a") -> Sample:
    """A sample; another number is another question about other images."""
    words = ("red", "blue", "green", "circle", "square", "left", "above")
    text = " ".join(words[(number * step) % len(words)] for step in (1, 2, 3, 5))
    shown = tuple(picture(10 * number + i) for i in range(images))
    return Sample(f"{task}/{subtask}/{number}", task, subtask, shown, f"is the {text}?")


def questions_file(folder: Path, lines: Sequence[Mapping[str, str]]) -> str:
    """Writes questions of one's own, each with a picture; a line says what it has beside them."""
    found = []
    for number, line in enumerate(lines):
        picture(number).save(folder / f"{number}.png")
        found.append({"image": f"{number}.png", "question": "is the circle red?"} | dict(line))
    path = folder / "mine.jsonl"
    path.write_text("\n".join(map(json.dumps, found)))
    return str(path)
