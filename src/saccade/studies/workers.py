"""Asks what is missing: in this process, or in several that share the store and take cells as they come."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from saccade import models
from saccade.evaluation.runner import Run
from saccade.plan import Plan
from saccade.studies.cells import Column, fill, missing
from saccade.studies.questions import Questions
from saccade.studies.store import Key, Store

WAIT = 0.5
"""Seconds between looks at a store that others work on."""

Progress = Callable[[int, int], None]
"""Called with answers that have come and of all."""


@dataclass(frozen=True)
class Work:
    """All that a process must know to take part.

    Attributes:
        model: What the user called the model.
        dtype: Number format, or None for the model's own.
        device: Where to put it.
        questions: The questions.
        store: Folder of the store.
        columns: By task: what answers are filed under, the plan's spec ('' for the stock model), and the key.
        batch_size: Questions per batch.
    """

    model: str
    dtype: str | None
    device: str
    questions: Questions
    store: Path
    columns: Mapping[str, Sequence[tuple[str, str, Key]]]
    batch_size: int


class _Orphaned(Exception):
    """Nobody waits for the work any more."""


def fill_all(
    loaded: models.Loaded,
    store: Store,
    questions: Questions,
    wanted: Mapping[str, Sequence[Column]],
    *,
    batch_size: int,
    backwards: bool = False,
    step: Callable[[int], None] = lambda answers: None,
    alive: Callable[[], bool] = lambda: True,
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
        alive: Asked between batches; the work ends where it says no.

    Returns:
        How many cells were finished here.
    """
    done = 0
    tasks = list(wanted)[::-1] if backwards else list(wanted)

    def stepped(answers: int) -> None:
        step(answers)
        if not alive():
            raise _Orphaned

    try:
        while alive() and any(True for task in tasks for _ in missing(store, wanted[task])):
            before = done
            for task in tasks:

                def drawn(task: str = task) -> Any:
                    return questions.asked(task)

                done += fill(loaded, store, drawn, wanted[task], batch_size=batch_size, step=stepped)
            if done == before:
                time.sleep(WAIT)
    except _Orphaned:
        # What was answered of the cell is in its ledger, for whoever goes on.
        pass
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

    def left() -> int:
        return sum(sizes[task] for task, columns in wanted.items() for _ in missing(store, columns))

    context = multiprocessing.get_context("spawn")
    said: Any = context.SimpleQueue()
    crew = [
        context.Process(target=_take_part, args=(work, number, said), daemon=True)
        for number in range(workers)
    ]
    try:
        for process in crew:
            process.start()
        while any(process.is_alive() for process in crew) and said.empty():
            progress(total - left(), total)
            time.sleep(WAIT)
        if not said.empty():
            raise ValueError(said.get())
        if left():
            codes = ", ".join(str(process.exitcode) for process in crew)
            raise ValueError(f"a process ended ({codes}) before all was asked; repeat the command to go on")
        progress(total, total)
    finally:
        for process in crew:
            if process.is_alive():
                process.terminate()
        for process in crew:
            process.join()


def _take_part(work: Work, number: int, said: Any) -> None:
    """One process: loads the model and works until nothing is missing, or its parent is gone."""
    parent = os.getppid()
    try:
        # Processes, not threads, share the cores.
        if work.device == "cpu":
            torch.set_num_threads(1)
        loaded = models.load(work.model, dtype=work.dtype, device=work.device)
        wanted = {
            task: [
                Column(Run(name, Plan.of(spec) if spec else None, name == "blind"), key)
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
            alive=lambda: os.getppid() == parent,
        )
    except KeyboardInterrupt:
        return
    except Exception as error:
        said.put(f"{type(error).__name__}: {error}")
