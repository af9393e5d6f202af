"""A question with its answer, and draws shared by the question writers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

T = TypeVar("T")


@dataclass(frozen=True)
class Question:
    """One question about a scene.

    Attributes:
        task: Name of its task.
        subtask: Finer group within the task.
        question: Words separated by spaces.
        answer: Words separated by spaces, as the tokenizer decodes them.
    """

    task: str
    subtask: str
    question: str
    answer: str


def pick(rng: np.random.Generator, items: Sequence[T]) -> T:
    """One item, uniformly; numpy's own choice would turn dataclasses into arrays."""
    return items[int(rng.integers(len(items)))]


def once(values: Iterable[T]) -> list[T]:
    """Values that occur exactly once, in order."""
    seen = list(values)
    return [value for value in seen if seen.count(value) == 1]


def coin(rng: np.random.Generator) -> bool:
    """True half of the time."""
    return bool(rng.random() < 0.5)
