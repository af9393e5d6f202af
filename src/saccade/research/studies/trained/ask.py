"""What trained models answer: the same held-out questions for every row and level of skip KV-cache.

Seeds of a row share the questions: each model answers a part of its own, and together they answer all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saccade import models
from saccade.evaluation.results import Prediction
from saccade.plans.plan import Plan
from saccade.research.studies.bench import StudyBench
from saccade.research.studies.lines import Book
from saccade.research.studies.questions import StudyQuestions
from saccade.research.studies.store import Store
from saccade.research.studies.trained.ablation import Ablation, AblationRow
from saccade.research.studies.trained.make import place
from saccade.research.studies.workers import fill_all
from saccade.skip_vision import set_cache, wrapped

Answers = Mapping[str, tuple[Prediction, ...]]
"""Predictions by task."""


@dataclass(frozen=True)
class Way:
    """How models are trained, asked and timed.

    Attributes:
        workers: Processes that share the work.
        batch_size: Questions per batch.
        tokens: Longest answer.
        device: Where models are asked and timed; None for the CPU.
        dtype: Number format that they answer in; None for the one they are saved in.
    """

    workers: int = 1
    batch_size: int = 32
    tokens: int = 24
    device: str | None = None
    dtype: str | None = None


@dataclass(frozen=True)
class Asked:
    """What a row said.

    Attributes:
        by_seed: Answers of every seed to its share of the questions.
        whole: Answers of the dense row's first seed to all questions, for rows of that seed alone.
        blind: The same to plain pictures; other rows are held against the same.
        text: Text rows of a prompt, on average.
        made: How each of its cells was made.
    """

    by_seed: Mapping[int, Answers]
    whole: Answers
    blind: Answers
    text: float = 0.0
    made: tuple[Mapping[str, Any], ...] = ()


def ask(
    run: Path,
    ablation: Ablation,
    row: AblationRow,
    questions: StudyQuestions,
    store: Store,
    way: Way,
    *,
    backwards: bool = False,
    step: Callable[[int], None] = lambda answers: None,
) -> Asked:
    """Asks a row's models what the store does not know yet.

    Args:
        run: Folder of the ablation.
        ablation: The ablation.
        row: The row.
        questions: The questions.
        store: Where answers are kept.
        way: How they are asked.
        backwards: Whether to begin with the last task, so that two processes meet in the middle.
        step: Called with the number of answers that have come.
    """
    said: dict[int, Answers] = {}
    whole: Answers = {}
    blind: Answers = {}
    made: list[Mapping[str, Any]] = []
    prompts: Counter[int] = Counter()
    seeds = ablation.seeds(row)
    for seed, share in zip(seeds, questions.shares(len(seeds)), strict=True):
        first = row.name == ablation.dense and seed == seeds[0]
        mine = questions if first else share
        loaded = models.load(
            str(place(run, row, seed) / "model"), dtype=way.dtype, device=way.device or "cpu"
        )
        set_cache(loaded, ablation.config(row).cache)
        bench = StudyBench(loaded, mine, store, way.tokens)
        done = wrapped(loaded.model)
        own = "" if done is None or done.attachment is None else done.attachment.plan.spec
        plan = None if row.plan is None else Plan.of(row.plan).resolve(loaded.shape.layers)
        # Weights do not tell how they are run: the name of a cell says what is on the model.
        name = "+".join(part for part in (own, plan.spec if plan else "") if part) or "dense"
        wanted = {task: [bench.column(task, name, plan)] for task in mine.tasks}
        if first:
            for task, columns in wanted.items():
                columns.append(bench.column(task, f"blind {name}", blind=True))
        fill_all(
            loaded,
            store,
            mine,
            wanted,
            batch_size=way.batch_size,
            backwards=backwards,
            step=step,
        )
        book = Book(bench, ())
        made += [book.cell(task, column.run.key).made for task in wanted for column in wanted[task]]
        answers = {task: book.predictions(task, name) for task in mine.tasks}
        for task in mine.tasks:
            for _, rows, number in book.cell(task, name).prompts:
                prompts[rows] += number
        if first:
            whole = answers
            blind = {task: book.predictions(task, f"blind {name}") for task in mine.tasks}
        said[seed] = {task: answers[task][: share.samples] for task in mine.tasks}
    text = sum(rows * number for rows, number in prompts.items()) / prompts.total()
    return Asked(said, whole, blind, text, tuple(made))
