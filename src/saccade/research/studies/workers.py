"""Asks what is missing: in this process, or in several that share the store and take cells as they come."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from saccade import models
from saccade.evaluation.runner import AnswerRun
from saccade.opening import Opening
from saccade.plans.plan import Plan
from saccade.research.studies.cells import Column, fill, missing
from saccade.research.studies.questions import StudyQuestions
from saccade.research.studies.store import Key, Store
from saccade.system.processes import WAIT, Say, together

Progress = Callable[[int, int], None]
"""Called with answers that have come and of all."""


@dataclass(frozen=True)
class Work:
    """All that a process must know to take part.

    Attributes:
        model: What the user called the model.
        opening: How it is opened.
        questions: The questions.
        store: Folder of the store.
        columns: By task: what answers are filed under, the plan's spec ('' for the stock model), and the key.
        batch_size: Questions per batch.
    """

    model: str
    opening: Opening
    questions: StudyQuestions
    store: Path
    columns: Mapping[str, Sequence[tuple[str, str, Key]]]
    batch_size: int


def fill_all(
    loaded: models.Loaded,
    store: Store,
    questions: StudyQuestions,
    wanted: Mapping[str, Sequence[Column]],
    *,
    batch_size: int,
    backwards: bool = False,
    step: Callable[[int], None] = lambda answers: None,
) -> int:
    """Fills every missing cell; waits for cells that another process is at.

    Args:
        loaded: The model.
        store: Where cells are kept.
        questions: The questions.
        wanted: Columns by task.
        batch_size: Questions per batch.
        backwards: Whether to begin with the last task, so that two processes meet in the middle.
        step: Called with the number of answers that have come.

    Returns:
        How many cells were finished here.
    """
    done = 0
    store.settle(column.key for columns in wanted.values() for column in columns)
    tasks = list(wanted)[::-1] if backwards else list(wanted)
    while any(True for task in tasks for _ in missing(store, wanted[task])):
        before = done
        for task in tasks:

            def drawn(task: str = task) -> Any:
                return questions.asked(task)

            done += fill(loaded, store, drawn, wanted[task], batch_size=batch_size, step=step)
        if done == before:
            time.sleep(WAIT)
    return done


def fill_with(
    work: Work,
    workers: int,
    wanted: Mapping[str, Sequence[Column]],
    sizes: Mapping[str, int],
    progress: Progress,
) -> None:
    """Fills every missing cell by several processes.

    Args:
        work: What they must know.
        workers: How many.
        wanted: Columns by task.
        sizes: Questions of every task.
        progress: Told how many answers stand in finished cells.

    Raises:
        ValueError: If one of them fails, with what it said.
    """
    store = Store(work.store)
    total = sum(sizes[task] * len(columns) for task, columns in wanted.items())
    open_by_task: dict[str, Sequence[Column]] = dict(wanted)

    def left() -> int:
        for task, columns in open_by_task.items():
            open_by_task[task] = [*missing(store, columns)]
        return sum(sizes[task] * len(columns) for task, columns in open_by_task.items())

    together(partial(_take_part, work), workers, watch=lambda: progress(total - left(), total))
    if left():
        raise ValueError("the processes ended before all was asked; repeat the command to go on")


def _take_part(work: Work, number: int, say: Say) -> None:
    """One process: loads the model and works until nothing is missing."""
    # Processes, not threads, share the cores.
    opening = work.opening.of_process(number)
    if opening.device == "cpu":
        torch.set_num_threads(1)
    loaded = models.open_as(work.model, opening)
    wanted = {
        task: [
            Column(AnswerRun(name, Plan.of(spec) if spec else None, name == "blind"), key)
            for name, spec, key in columns
        ]
        for task, columns in work.columns.items()
    }
    fill_all(
        loaded,
        Store(work.store),
        work.questions,
        wanted,
        batch_size=work.batch_size,
        backwards=number % 2 == 1,
    )
