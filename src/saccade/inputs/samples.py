"""One question about zero or more images and videos: what calibration and evaluation both read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from PIL.Image import Image, new

from saccade.inputs.videos import Video

BLIND_COLOUR = (128, 128, 128)
"""The plain picture that a blind baseline sees instead of the image."""


@dataclass(frozen=True)
class Sample:
    """A question, its images and, where known, its answer.

    Attributes:
        id: Stable identifier, for example ``"test/0/count/17"``.
        task: Name of the task or file the sample comes from.
        subtask: Finer group inside the task; stratified draws use it.
        images: RGB images in prompt order; may be empty.
        question: The user's question, without image placeholders.
        answer: Reference answer; empty where none is known.
        others: Further answers that count as right.
        score: How answers are scored, such as ``anls`` (``saccade.scoring``).
        videos: Videos in prompt order, behind the images; may be empty.
    """

    id: str
    task: str
    subtask: str
    images: tuple[Image, ...]
    question: str
    answer: str = ""
    others: tuple[str, ...] = ()
    score: str = "exact"
    videos: tuple[Video, ...] = ()

    @property
    def references(self) -> tuple[str, ...]:
        """All answers that count as right."""
        return (self.answer, *self.others)

    @property
    def visual(self) -> bool:
        """Whether there is anything to see."""
        return bool(self.images or self.videos)

    @property
    def pixels(self) -> int:
        """Pixels of its images, and of the frames that are shown of its videos at most."""
        images = sum(image.width * image.height for image in self.images)
        return images + sum(video.pixels for video in self.videos)

    @property
    def filmed(self) -> str:
        """What kinds of videos it has, and whether beside images; processors want one kind in a batch."""
        return str(([video.kind for video in self.videos], bool(self.images))) if self.videos else ""


def likeness(sample: Sample, tokenizer: Any) -> tuple[str, int, int, int]:
    """By what samples are sorted, so that prompts of like lengths are asked together."""
    words = tokenizer(sample.question, add_special_tokens=False).input_ids
    return sample.filmed, len(sample.images), sample.pixels, len(words)


def in_batches(samples: Sequence[Sample], order: Sequence[int], size: int) -> list[list[int]]:
    """Cuts an order of samples, given by index, into batches that have one kind of video each.

    Args:
        samples: The samples.
        order: Their indices, those with videos of one kind side by side.
        size: Samples of a batch at most.
    """
    groups = (list(group) for _, group in groupby(order, key=lambda index: samples[index].filmed))
    return [group[start : start + size] for group in groups for start in range(0, len(group), size)]


def blind_image(image: Image) -> Image:
    """A plain grey image of the same size: what a model is shown to measure what it guesses."""
    return new("RGB", image.size, BLIND_COLOUR)
