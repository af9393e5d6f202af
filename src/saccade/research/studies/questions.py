"""Where a study's questions come from: the embedded suite or a user's file, calibration samples apart."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from saccade.evaluation.ledger import sample_digest
from saccade.inputs.data import Entry, read_jsonl
from saccade.inputs.samples import Sample
from saccade.system.embedded import GLANCE, Embedded

SUITE_SEEDS = 1 << 16
KEPT_BYTES = 1 << 30
"""Questions are kept for the next model while their pictures take no more memory than this."""


@dataclass(frozen=True)
class StudyQuestions:
    """Questions by task; processes that are given the same one draw the same.

    Attributes:
        tasks: Names of the tasks.
        samples: Held-out questions of each task, at most.
        pool: Calibration samples of each task, at most.
        seed: Seed of the draw.
        data: JSONL file; None for the suite.
        whole: What these are a share of, if they are (``shares``).
        first: Place of the share's first question among those of the whole.
        suite: Embedded model for which the suite's scenes are drawn.
    """

    tasks: tuple[str, ...]
    samples: int
    pool: int
    seed: int
    data: Path | None = None
    whole: StudyQuestions | None = None
    first: int = 0
    suite: Embedded = GLANCE

    @classmethod
    def of_suite(
        cls, tasks: tuple[str, ...], samples: int, pool: int, seed: int, suite: Embedded = GLANCE
    ) -> StudyQuestions:
        """Questions of an embedded model's suite, all tasks if none is named.

        Raises:
            ValueError: If there is no such task, or the seed is too large for the suite.
        """
        from saccade.glance.tasks import TASKS, check_tasks

        check_tasks(tasks)
        if not 0 <= seed < SUITE_SEEDS:
            raise ValueError(f"--seed is below {SUITE_SEEDS} for the embedded suite, got {seed}")
        return cls(tuple(dict.fromkeys(tasks)) or tuple(TASKS), samples, pool, seed, suite=suite)

    @classmethod
    def of_file(
        cls, data: Path, tasks: tuple[str, ...], samples: int, pool: int, seed: int
    ) -> StudyQuestions:
        """Questions of a JSONL file by its ``task`` field; part of each task is held back for calibration.

        Raises:
            ValueError: If the file cannot be read, has no such task, or a task has fewer than two questions.
        """
        made = cls(tuple(dict.fromkeys(tasks)), samples, pool, seed, data)
        found = made._by_task
        unknown = [task for task in made.tasks if task not in found]
        if unknown:
            raise ValueError(f"{data} has no task {unknown[0]!r}; it has {', '.join(found)}")
        names = made.tasks or tuple(found)
        few = [task for task in names if len(found[task]) < 2]
        if few:
            raise ValueError(
                f"{data}: task {few[0]!r} has one question; a study needs two at least, one to calibrate on"
            )
        return cls(names, samples, pool, seed, data)

    @property
    def source(self) -> str:
        """What results call them."""
        return self.suite.source if self.data is None else self.data.name

    @cached_property
    def _by_task(self) -> dict[str, list[Entry]]:
        assert self.data is not None
        groups: dict[str, list[Entry]] = {}
        for entry in read_jsonl(self.data):
            groups.setdefault(entry.task, []).append(entry)
        return groups

    def _split(self, task: str) -> tuple[list[Entry], list[Entry]]:
        """Calibration and held-out entries of a task: at most half go to the calibration."""
        entries = self._by_task[task]
        order = random.Random(f"{self.seed} {task}").sample(range(len(entries)), len(entries))
        held = min(self.pool, len(entries) // 2)
        rest = order[held:][: self.samples]
        return [entries[i] for i in order[:held]], [entries[i] for i in sorted(rest)]

    def shares(self, count: int) -> list[StudyQuestions]:
        """The held-out questions of every task in so many runs of nearly equal length; calibration as it is.

        Raises:
            ValueError: If a task has fewer questions than there are shares.
        """
        if not 1 <= count <= self.samples:
            raise ValueError(f"{self.samples} questions a task do not make {count} shares; take more of them")
        ends = [self.samples * n // count for n in range(count + 1)]
        return [replace(self, samples=end - start, whole=self, first=start) for start, end in pairwise(ends)]

    def check(self, each: bool = False) -> None:
        """Looks at all questions of a file once, before any work is done on them.

        Args:
            each: Whether every task is calibrated on alone.

        Raises:
            ValueError: If a held-out question has no answer, an image cannot be decoded, or nothing that a
                task is to be calibrated on has one.
        """
        splits = {task: self._split(task) for task in (self.tasks if self.data is not None else ())}
        for task, (pool, _) in splits.items():
            if each and not any(entry.paths or entry.videos for entry in pool):
                raise ValueError(
                    f"{self.data}, task {task!r}: none of its {len(pool)} calibration samples has an image, "
                    "and there is nothing to calibrate on; --task says which tasks are studied"
                )
        for pool, held_out in splits.values():
            for entry in held_out:
                if not entry.answers:
                    raise ValueError(f"{entry.where}: no answer; a study needs one for every question")
            for entry in (*pool, *held_out):
                entry.load()

    def asked(self, task: str) -> tuple[Sample, ...]:
        """The held-out questions of a task."""
        if task not in self._kept:
            drawn = tuple(self._draw(task))
            pictures = sum(4 * image.width * image.height for sample in drawn for image in sample.images)
            if sum(size for size, _ in self._kept.values()) + pictures > KEPT_BYTES:
                return drawn
            self._kept[task] = pictures, drawn
        return self._kept[task][1]

    def bare(self, task: str) -> tuple[tuple[Sample, ...], str]:
        """The held-out questions of a task without their images, and their digest with them."""
        if task not in self._bare:
            # Who names questions need not ask them: their pictures are kept for those who do.
            whole = self._kept[task][1] if task in self._kept else tuple(self._draw(task))
            self._bare[task] = tuple(replace(sample, images=()) for sample in whole), sample_digest(whole)
        return self._bare[task]

    @cached_property
    def _kept(self) -> dict[str, tuple[int, tuple[Sample, ...]]]:
        return {}

    @cached_property
    def _bare(self) -> dict[str, tuple[tuple[Sample, ...], str]]:
        return {}

    def __getstate__(self) -> dict[str, Any]:
        # Another process draws for itself rather than be sent the pictures.
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def _draw(self, task: str) -> Sequence[Sample]:
        if self.whole is not None:
            return self.whole.asked(task)[self.first : self.first + self.samples]
        if self.data is not None:
            return [entry.load() for entry in self._split(task)[1]]
        from saccade.glance import suite

        return suite.samples(task, self.samples, "test", self.seed, self.suite.scale)

    def calibration(self, task: str, most: int | None = None) -> list[Sample]:
        """Calibration samples of a task, the first ``most`` of its pool."""
        count = self.pool if most is None else min(most, self.pool)
        if self.data is not None:
            return [entry.load() for entry in self._split(task)[0][:count]]
        from saccade.glance import suite

        return suite.samples(task, count, "calibration", self.seed, self.suite.scale)
