"""What trained models answer: the same held-out questions for every row, seed and level of skip KV-cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from saccade import models
from saccade.evaluation.results import Prediction
from saccade.plan import Plan
from saccade.skip_vision import set_cache, wrapped
from saccade.studies.bench import Bench
from saccade.studies.cells import fill
from saccade.studies.lines import Book
from saccade.studies.questions import Questions
from saccade.studies.store import Store
from saccade.studies.trained.make import place
from saccade.studies.trained.rows import Row

Answers = Mapping[str, tuple[Prediction, ...]]
"""Predictions by task."""


@dataclass(frozen=True)
class Asked:
    """What a row said.

    Attributes:
        by_seed: Answers of every seed.
        blind: Answers of the first seed to plain pictures.
    """

    by_seed: Mapping[int, Answers]
    blind: Answers


def ask(
    run: Path,
    row: Row,
    seeds: tuple[int, ...],
    questions: Questions,
    store: Store,
    *,
    batch_size: int = 50,
    step: Callable[[int], None] = lambda answers: None,
) -> Asked:
    """Asks a row's models what the store does not know yet.

    Args:
        run: Folder of the ablation.
        row: The row.
        seeds: Seeds that are trained.
        questions: The questions.
        store: Where answers are kept.
        batch_size: Questions per batch.
        step: Called with the number of answers that have come.
    """
    said: dict[int, Answers] = {}
    blind: Answers = {}
    for seed in seeds:
        loaded = models.load(str(place(run, row, seed) / "model"))
        set_cache(loaded, row.config().cache)
        bench = Bench(loaded, questions, store)
        done = wrapped(loaded.model)
        own = "" if done is None or done.attachment is None else done.attachment.plan.spec
        plan = None if row.plan is None else Plan.of(row.plan).resolve(loaded.shape.layers)
        # Weights do not tell how they are run: the name of a cell says what is on the model.
        name = "+".join(part for part in (own, plan.spec if plan else "") if part) or "dense"
        told: dict[str, tuple[Prediction, ...]] = {}
        for task in questions.tasks:
            columns = [bench.column(task, name, plan)]
            if seed == seeds[0]:
                columns.append(bench.column(task, f"blind {name}", blind=True))
            fill(loaded, store, partial(questions.asked, task), columns, batch_size=batch_size, step=step)
            told[task] = Book(bench, ()).predictions(task, name)
        said[seed] = told
        if seed == seeds[0]:
            book = Book(bench, ())
            blind = {task: book.predictions(task, f"blind {name}") for task in questions.tasks}
    return Asked(said, blind)
