"""One question about zero or more images: what calibration and evaluation both read."""

from __future__ import annotations

from dataclasses import dataclass

from PIL.Image import Image, new

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
    """

    id: str
    task: str
    subtask: str
    images: tuple[Image, ...]
    question: str
    answer: str = ""
    others: tuple[str, ...] = ()
    score: str = "exact"

    @property
    def references(self) -> tuple[str, ...]:
        """All answers that count as right."""
        return (self.answer, *self.others)


def blind_image(image: Image) -> Image:
    """A plain grey image of the same size: what a model is shown to measure what it guesses."""
    return new("RGB", image.size, BLIND_COLOUR)
