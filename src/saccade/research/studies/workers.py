"""Asks what is missing of a store that other commands may be filling too; they take cells as they come."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from saccade import models
from saccade.helpers import Helpers
from saccade.research.studies.cells import Column, fill, missing
from saccade.research.studies.questions import StudyQuestions
from saccade.research.studies.store import Store
from saccade.system.processes import WAIT

Progress = Callable[[int, int], None]
"""Called with answers that have come and of all."""


def fill_all(
    loaded: models.Loaded,
    store: Store,
    questions: StudyQuestions,
    wanted: Mapping[str, Sequence[Column]],
    *,
    batch_size: int,
    backwards: bool = False,
    step: Callable[[int], None] = lambda answers: None,
    helpers: Helpers[Any] | None = None,
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
        helpers: Other processes that answer batches too, of the same model.

    Returns:
        How many cells were finished here.
    """
    done = 0
    store.settle(column.key for columns in wanted.values() for column in columns)
    tasks = list(wanted)[::-1] if backwards else list(wanted)
    while any(True for task in tasks for _ in missing(store, wanted[task])):
        before = done
        for task in tasks:
            drawn = partial(questions.asked, task)
            done += fill(
                loaded, store, drawn, wanted[task], batch_size=batch_size, step=step, helpers=helpers
            )
        if done == before:
            time.sleep(WAIT)
    return done
