"""A tiny random Glance with questions that it answers in several ways."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from saccade import models
from saccade.inputs.samples import Sample

QUESTIONS = ("what color is the circle ?", "how many red objects are there ?", "is there a ring ?")


def answered(toy: models.Loaded) -> list[Sample]:
    """Twelve questions of three tasks; the references are the dense answers, so dense is always right."""
    rng = np.random.default_rng(0)
    asked = []
    for i in range(12):
        image = Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8))
        text = QUESTIONS[i % 3] + (" yes" * (i // 3) if i % 2 else "")
        asked.append(Sample(f"toy/{i}", f"task{i % 3}", "all", (image,), text, "x"))
    return [replace(s, answer=say(toy, s) or "nothing") for s in asked]


def say(loaded: models.Loaded, sample: Sample, max_new_tokens: int = 4) -> str:
    """The stock model's greedy answer to one question, asked alone."""
    inputs = models.inputs(loaded, [sample])
    with torch.inference_mode():
        output = loaded.model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens)
    return models.answers(loaded, output, inputs["input_ids"].shape[1])[0]
