"""The suite as users see it: reproducible samples of every task, apart from anything trained on."""

from __future__ import annotations

from functools import lru_cache
from zlib import crc32

import numpy as np

from saccade.glance.draw import LOOKS, DrawnLook
from saccade.glance.questions.base import Question
from saccade.glance.scenes import Scene, make_scene, scene_seed
from saccade.glance.tasks import TASKS, Task, check_tasks
from saccade.inputs.samples import Sample, blind_image

__all__ = ["TASKS", "Task", "blind_image", "samples"]

_TRIES = 4096  # scenes looked at per sample, at most; a few are enough


def samples(
    task: str | None = None, n: int = 200, split: str = "test", seed: int = 0, scale: int = 1
) -> list[Sample]:
    """Draw samples.

    Args:
        task: A task's name, or None for all tasks.
        n: Samples per task.
        split: ``"test"``, ``"calibration"`` or ``"train"``; no scene is in two of them.
        seed: Another seed gives other scenes of the same split.
        scale: How large pictures are: 1 as Glance sees them, 2 as Gaze does.

    Returns:
        `n` samples of each task, subtasks in equal parts. The first samples do not depend on `n`.

    Raises:
        ValueError: Unknown task, split or scale, or a negative `n` or `seed`.
    """
    check_tasks([] if task is None else [task])
    if scale not in LOOKS:
        raise ValueError(f"no pictures at scale {scale!r}; there are {', '.join(map(str, LOOKS))}")
    if n < 0 or not 0 <= seed < 1 << 16:
        raise ValueError("n must not be negative and seed must be in [0, 65536)")
    chosen = list(TASKS.values()) if task is None else [TASKS[task]]
    return [_sample(one, index, split, seed, LOOKS[scale]) for one in chosen for index in range(n)]


def _sample(task: Task, index: int, split: str, seed: int, look: DrawnLook) -> Sample:
    scene, question = _find(task.name, index, split, seed, look)
    return Sample(
        id=f"{split}/{seed}/{task.name}/{index}",
        task=task.name,
        subtask=question.subtask,
        images=(scene.image,),
        question=question.question,
        answer=question.answer,
    )


def _find(name: str, index: int, split: str, seed: int, look: DrawnLook) -> tuple[Scene, Question]:
    """The first scene, from a start of this sample's own, that has a question of the wanted subtask."""
    task = TASKS[name]
    wanted = task.subtasks[index % len(task.subtasks)]
    # Training draws scenes from the whole range of its split; these are fixed points of it.
    start = (seed << 31) + (list(TASKS).index(name) << 26) % (1 << 31)
    rng = np.random.default_rng((seed, crc32(f"{split}/{name}".encode()), index))
    kinds = list(_kinds_of(name, wanted))
    target = rng.random()
    for attempt in range(_TRIES):
        kind = kinds[int(rng.integers(len(kinds)))]
        scene = make_scene(kind, scene_seed(split, start + index * _TRIES + attempt), look)
        asked = [q for q in task.questions(scene, rng) if q.subtask == wanted]
        if asked:
            return scene, asked[int(target * len(asked))]
    raise RuntimeError(f"no {name}/{wanted} question in {_TRIES} scenes")


@lru_cache(maxsize=256)
def _kinds_of(name: str, subtask: str) -> tuple[str, ...]:
    """Scene types that can hold a subtask: only those are tried."""
    found = []
    for kind in TASKS[name].kinds:
        rng = np.random.default_rng(0)
        if any(
            q.subtask == subtask
            for i in range(64)
            for q in TASKS[name].questions(make_scene(kind, scene_seed("train", i)), rng)
        ):
            found.append(kind)
    return tuple(found)
