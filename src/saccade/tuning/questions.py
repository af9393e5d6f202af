"""Samples that the search sees, and samples that it never sees."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from saccade.calibration.drawing import draw
from saccade.evaluation.options import EvaluationOptions
from saccade.evaluation.runner import DENSE, AnswerRun, answer
from saccade.helpers import Helpers
from saccade.inputs.data import Entry
from saccade.inputs.samples import Sample
from saccade.models import Loaded
from saccade.system.journal import Journal
from saccade.tuning.settings import FEWEST


class Drawn(Protocol):
    """How samples are drawn and asked: what settings of a search and of a healing say alike."""

    @property
    def num_samples(self) -> int:
        """Samples of the first set, at most."""

    @property
    def num_held_out(self) -> int:
        """Samples of the second set, at most."""

    @property
    def batch(self) -> int:
        """Prompts that run together."""

    @property
    def tokens(self) -> int:
        """Longest answer."""

    @property
    def seed(self) -> int:
        """Of the draw."""


@dataclass(frozen=True)
class Questions:
    """Two sets of samples that share none.

    Attributes:
        search: What the search sees, tasks and sub-tasks spread evenly over its parts.
        held_out: What judges its plans.
        answered: Whether all have answers of their own; else the dense model's are the reference.
    """

    search: tuple[Sample, ...]
    held_out: tuple[Sample, ...]
    answered: bool


def split(pool: Iterable[Sample | Entry], settings: Drawn) -> Questions:
    """Draws both sets from one pool: at most half of it for the search, evenly over sub-tasks.

    Raises:
        ValueError: If the pool is too small, ids repeat, or an image cannot be read.
    """
    given = list(pool)
    if len({item.id for item in given}) < len(given):
        raise ValueError("sample ids must be distinct")
    if len(given) < 2 * FEWEST:
        raise ValueError(
            f"{len(given)} samples are too few: {FEWEST} at least are learnt from, and as many judge it"
        )
    most = min(len(given), settings.num_samples + settings.num_held_out)
    drawn = draw(given, most, "stratified", settings.seed)
    seen = min(settings.num_samples, len(drawn) // 2)
    return made(drawn[:seen], drawn[seen:], settings)


def made(search: Sequence[Sample | Entry], held_out: Sequence[Sample | Entry], settings: Drawn) -> Questions:
    """Both sets from samples that are apart already."""
    order = random.Random(settings.seed)
    seen = list(search)
    order.shuffle(seen)
    loaded = [
        tuple(item.load() if isinstance(item, Entry) else item for item in part) for part in (seen, held_out)
    ]
    answered = all(sample.answer.strip() for part in loaded for sample in part)
    return Questions(loaded[0], loaded[1], answered)


def referenced(
    loaded: Loaded,
    questions: Questions,
    settings: Drawn,
    journal: Journal,
    helpers: Helpers[Any] | None = None,
) -> tuple[Sample, ...]:
    """Held-out samples with what they are scored against: their answers, or the dense model's own."""
    if questions.answered:
        return questions.held_out
    found = answer(
        loaded,
        questions.held_out,
        [AnswerRun(DENSE)],
        EvaluationOptions(settings.batch, settings.tokens),
        ledger=journal,
        label="dense answers",
        helpers=helpers,
    )
    said = [one.text for one in found.predictions[DENSE]]
    # An empty answer is one too, and samples are scored against words.
    return tuple(
        replace(sample, answer=text or "(nothing)", others=("",) if not text else (), score="exact")
        for sample, text in zip(questions.held_out, said, strict=True)
    )
