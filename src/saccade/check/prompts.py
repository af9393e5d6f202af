"""What a model is asked while it is checked: one picture, text alone, and a ragged batch of both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from saccade.inputs.samples import Sample
from saccade.opening.errors import first_line
from saccade.plans.plan import Plan

if TYPE_CHECKING:
    from PIL.Image import Image

    from saccade.models import Loaded

QUESTION = "What is in the picture, and where?"
TEXT = "Name three colours."
SIZE, SECOND = (336, 336), (300, 220)
"""Sizes of the pictures that are drawn where none is given, in pixels."""

Inputs = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Prompts:
    """Ready-made inputs, each what ``model(**inputs)`` takes.

    Attributes:
        picture: One prompt with a picture, without padding.
        text: One prompt without a picture, without padding.
        singles: Prompts one by one, without padding.
        batch: The same prompts together, left padded.
        pictures: How many pictures each of them shows; each unbroken run of visual rows is one if omitted.
        smaller: Gives the same prompts with their pictures as a plan of the ``resize`` kind makes them; None
            where there is no processor to do it.
        notes: What is not among them, and why.
    """

    picture: Inputs
    text: Inputs
    singles: tuple[Inputs, ...] = ()
    batch: Inputs | None = None
    pictures: tuple[int, ...] = ()
    smaller: Callable[[Plan], Prompts] | None = None
    notes: tuple[str, ...] = ()

    def to(self, dtype: torch.dtype, device: torch.device | str | None = None) -> Prompts:
        """The same with pictures in a number format, on a device."""
        smaller = self.smaller
        return replace(
            self,
            picture=cast(self.picture, dtype, device),
            text=cast(self.text, dtype, device),
            singles=tuple(cast(one, dtype, device) for one in self.singles),
            batch=None if self.batch is None else cast(self.batch, dtype, device),
            smaller=None if smaller is None else lambda plan: smaller(plan).to(dtype, device),
        )


def cast(inputs: Mapping[str, Any], dtype: torch.dtype, device: torch.device | str | None = None) -> Inputs:
    """Inputs with their pictures in a number format, on a device."""
    return {
        key: value.to(device=device, dtype=dtype if value.is_floating_point() else None)
        if isinstance(value, torch.Tensor)
        else value
        for key, value in inputs.items()
    }


def ask(loaded: Loaded, image: Image | None = None, question: str = QUESTION) -> Prompts:
    """Prompts of a model that has a processor.

    Args:
        loaded: The model.
        image: The picture; one is drawn if omitted.
        question: The question about it.

    Raises:
        ValueError: If the stock model cannot be asked about one picture.
    """
    picture = image or drawn(*SIZE)
    one = Sample("picture", "check", "", (picture,), question)
    two = Sample("two", "check", "", (drawn(*SECOND), picture), "Which is larger?")
    samples, notes = [one], []
    if loaded.family.text_alone:
        samples.append(Sample("text", "check", "", (), TEXT))
    else:
        notes.append(
            "a prompt without a picture: its processor does not take it, so plain tokens stand for it"
        )
    reason = _refuses(loaded, two)
    if reason:
        notes.append(f"two pictures in a prompt: the stock model does not take them ({reason})")
        samples.append(replace(two, images=two.images[:1]))
    else:
        samples.append(two)
    return _encoded(loaded, samples, tuple(notes), None)


def _encoded(loaded: Loaded, samples: list[Sample], notes: tuple[str, ...], plan: Plan | None) -> Prompts:
    from saccade import models

    singles = tuple(dict(models.inputs(loaded, [sample], plan)) for sample in samples)
    bare = next((one for one, sample in zip(singles, samples, strict=True) if not sample.images), None)
    return Prompts(
        singles[0],
        _plain(loaded, singles[0]) if bare is None else bare,
        singles,
        dict(models.inputs(loaded, samples, plan)),
        tuple(len(sample.images) for sample in samples),
        lambda wanted: _encoded(loaded, samples, notes, wanted),
        notes,
    )


def _plain(loaded: Loaded, pictured: Inputs) -> Inputs:
    """Tokens of a text by themselves, with the kinds of rows that the model is told of."""
    made = loaded.processor.tokenizer(TEXT, return_tensors="pt")
    found = {key: made[key].to(loaded.device) for key in ("input_ids", "attention_mask")}
    kinds = {key: torch.zeros_like(found["input_ids"]) for key in pictured if key.endswith("token_type_ids")}
    return found | kinds


@torch.no_grad()
def _refuses(loaded: Loaded, sample: Sample) -> str:
    """Why the stock model does not take a prompt; empty where it does."""
    from saccade import models

    try:
        loaded.model(**models.inputs(loaded, [sample]))
    except Exception as error:  # processors and models raise whatever their authors chose
        return first_line(error)
    return ""


def drawn(width: int, height: int) -> Image:
    """A picture with something different everywhere: shapes over a slope of colours and noise."""
    import numpy as np
    from PIL import Image, ImageDraw

    across, down = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    colours = np.stack([across, down, 1 - across * down], -1)
    noise = np.random.default_rng(width).random((height, width, 3))
    image = Image.fromarray((255 * (0.8 * colours + 0.2 * noise)).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for part, colour in enumerate(("red", "white", "navy", "gold")):
        x, y = width * (part % 2) / 2, height * (part // 2) / 2
        box = (x + 0.1 * width, y + 0.1 * height, x + (0.2 + 0.05 * part) * width, y + 0.35 * height)
        (pen.ellipse if part % 2 else pen.rectangle)(box, fill=colour)
    return image
