"""Small videos with questions that no single frame answers: what moved where, and in which order things came.

Scenes are drawn from a seed; the answer of every question is as likely as each of its others, so that a model
that sees nothing gets the share that ``GUESSED`` says.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from saccade.glance.draw import shape_mask
from saccade.glance.vocabulary import COLORS, SHAPES
from saccade.inputs.samples import Sample
from saccade.inputs.videos import video_of
from saccade.system.files import write_folder, write_text

SIDE, CELLS, FRAMES, RATE = 224, 4, 8, 2.0
"""Pixels along a side of a frame, cells along it, frames of a video, frames in a second."""
THING = 44
"""Pixels along a side of a thing."""
THINGS = 3
STEPS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}
"""Lines and columns that a cell lies further on."""
GUESSED = {
    "moved": {"what": 1 / 3, "where": 1 / 4},
    "order": {"first": 1 / 3, "last": 1 / 3, "before": 1 / 2},
}
"""Share of the questions of every sub-task that are answered by guessing."""
FILE = "clips.jsonl"
"""Name of the file that `write` makes beside the folders of frames."""

T = TypeVar("T")


@dataclass(frozen=True)
class DrawnClip:
    """A video with a question about it.

    Attributes:
        task: ``moved`` or ``order``.
        subtask: What is asked.
        frames: Its frames, RGB.
        question: The question, with what may be answered.
        answer: The answer.
        score: How answers are scored.
    """

    task: str
    subtask: str
    frames: tuple[Image.Image, ...]
    question: str
    answer: str
    score: str = "exact"


@dataclass(frozen=True)
class _Thing:
    color: str
    shape: str

    def __str__(self) -> str:
        return f"{self.color} {self.shape}"


def check_task(task: str) -> None:
    """Refuses tasks that are not there.

    Raises:
        ValueError: Naming those that are.
    """
    if task not in GUESSED:
        raise ValueError(f"no such task: {task}; there are {', '.join(GUESSED)}")


def clips(task: str, n: int, seed: int = 0) -> Iterator[DrawnClip]:
    """Videos of a task, one after another; the same seed gives the same, also of fewer.

    Args:
        task: ``moved`` or ``order``.
        n: How many.
        seed: Of everything that is drawn.

    Raises:
        ValueError: If there is no such task, or a number is out of range.
    """
    check_task(task)
    if n < 1:
        raise ValueError(f"at least one video is made, asked for {n}")
    for number in range(n):
        yield _WRITERS[task](np.random.default_rng([seed, [*GUESSED].index(task), number]), number)


def samples(task: str, n: int, seed: int = 0) -> list[Sample]:
    """Videos of a task as samples; see ``clips``."""
    return [
        Sample(
            id=f"{task}/{seed}/{number}",
            task=clip.task,
            subtask=clip.subtask,
            images=(),
            question=clip.question,
            answer=clip.answer,
            score=clip.score,
            videos=(video_of(clip.frames, RATE),),
        )
        for number, clip in enumerate(clips(task, n, seed))
    ]


def write(
    folder: str | os.PathLike,
    n: int,
    seed: int = 0,
    tasks: Sequence[str] = tuple(GUESSED),
    step: Callable[[], object] = lambda: None,
) -> Path:
    """Writes videos as folders of frames, and a JSONL file of the questions; whole or not at all.

    Args:
        folder: A folder that does not exist yet.
        n: Videos of each task.
        seed: Of everything that is drawn.
        tasks: Which tasks.
        step: Called after every video.

    Returns:
        The JSONL file.

    Raises:
        ValueError: As ``clips``, or if the folder is there and holds something.
    """
    there = Path(folder)
    if there.is_dir() and any(there.iterdir()):
        raise ValueError(f"{there} holds files already; name a folder that does not exist yet")
    with write_folder(there) as work:
        said = []
        for task in tasks:
            for number, clip in enumerate(clips(task, n, seed)):
                name = f"{task}-{number}"
                (work / name).mkdir()
                for at, frame in enumerate(clip.frames):
                    frame.save(work / name / f"{at}.png")
                said.append(
                    {
                        "id": f"{task}/{seed}/{number}",
                        "task": clip.task,
                        "subtask": clip.subtask,
                        "video": name,
                        "fps": RATE,
                        "question": clip.question,
                        "answer": clip.answer,
                        "score": clip.score,
                    }
                )
                step()
        write_text(work / FILE, "".join(json.dumps(line) + "\n" for line in said))
    return there / FILE


def _moved(rng: np.random.Generator, number: int) -> DrawnClip:
    """One thing crosses the picture, the others stay where they are."""
    things = _things(rng)
    mover = things[number // 2 % THINGS]
    way = [*STEPS][number // 2 % len(STEPS)]
    down, across = STEPS[way]
    lane = int(rng.integers(CELLS))
    ends = (0, CELLS - 1) if down + across > 0 else (CELLS - 1, 0)
    start, end = ((end, lane) if down else (lane, end) for end in ends)
    free = [(y, x) for y in range(CELLS) for x in range(CELLS) if (x if down else y) != lane]
    still = dict(zip([t for t in things if t != mover], _some(rng, free, THINGS - 1), strict=True))
    frames = []
    for at in range(FRAMES):
        part = at / (FRAMES - 1)
        here = (start[0] + part * (end[0] - start[0]), start[1] + part * (end[1] - start[1]))
        frames.append({**still, mover: here})
    shown = _drawn(rng, frames)
    if number % 2:
        question = f"Does the {mover} move left, right, up or down? Answer with one word."
        return DrawnClip("moved", "where", shown, question, way)
    question = f"Which one moves: {_listed(things)}? Answer with its color and shape."
    return DrawnClip("moved", "what", shown, question, str(mover), "contains")


def _order(rng: np.random.Generator, number: int) -> DrawnClip:
    """Things appear one after another, and stay."""
    things = _things(rng)
    cells = _some(rng, [(y, x) for y in range(CELLS) for x in range(CELLS)], THINGS)
    places = dict(zip(things, cells, strict=True))
    turn = number // 3 % THINGS
    # The one that is asked about stands anywhere in the question, and comes when the answer wants it.
    order = [things[(turn + at) % THINGS] for at in range(THINGS)]
    frames = []
    for at in range(FRAMES):
        seen = order[: min((at + 1) // 2, THINGS)]
        frames.append({thing: places[thing] for thing in seen})
    shown = _drawn(rng, frames)
    asked = ("first", "last", "before")[number % 3]
    if asked == "before":
        one, other = (order[0], order[2]) if number // 3 % 2 else (order[2], order[0])
        question = f"Does the {one} appear before the {other}? Answer yes or no."
        return DrawnClip("order", asked, shown, question, "yes" if one == order[0] else "no")
    question = f"Which one appears {asked}: {_listed(things)}? Answer with its color and shape."
    return DrawnClip("order", asked, shown, question, str(order[0 if asked == "first" else -1]), "contains")


_WRITERS = {"moved": _moved, "order": _order}


def _things(rng: np.random.Generator) -> list[_Thing]:
    """Things of colours and shapes of their own."""
    colors, shapes = _some(rng, [*COLORS], THINGS), _some(rng, [*SHAPES], THINGS)
    return [_Thing(color, shape) for color, shape in zip(colors, shapes, strict=True)]


def _some(rng: np.random.Generator, items: Sequence[T], count: int) -> list[T]:
    return [items[int(at)] for at in rng.permutation(len(items))[:count]]


def _listed(things: Sequence[_Thing]) -> str:
    *others, last = (f"the {thing}" for thing in things)
    return f"{', '.join(others)} or {last}"


def _drawn(
    rng: np.random.Generator, frames: Sequence[dict[_Thing, tuple[float, float]]]
) -> tuple[Image.Image, ...]:
    """Frames on one ground of grey noise; places are in cells."""
    ground = 225 + rng.normal(0, 4, (SIDE, SIDE, 1)).repeat(3, 2)
    cell, edge = SIDE // CELLS, (SIDE // CELLS - THING) // 2
    made = []
    for things in frames:
        canvas = ground.copy()
        for thing, (down, across) in things.items():
            y, x = round(down * cell) + edge, round(across * cell) + edge
            alpha = shape_mask(thing.shape, THING)[..., None]
            part = canvas[y : y + THING, x : x + THING]
            part[:] = part * (1 - alpha) + alpha * np.asarray(COLORS[thing.color], dtype=float)
        made.append(Image.fromarray(canvas.clip(0, 255).astype(np.uint8)))
    return tuple(made)
