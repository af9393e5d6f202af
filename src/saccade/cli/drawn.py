"""Samples as commands draw them: of a suite, and those to search or heal on with others that judge."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from saccade.system.embedded import GLANCE, Embedded

if TYPE_CHECKING:
    from saccade.inputs.samples import Sample
    from saccade.tuning.questions import Drawn, Questions


def read_questions(
    tasks: list[str], data: Path | None, settings: Drawn, embedded: Embedded = GLANCE
) -> Questions:
    """Samples to search or heal on and held-out ones: parts of the user's file, or the suite's scenes.

    Raises:
        ValueError: If both are asked for, or one cannot be read.
    """
    from saccade.tuning.questions import made, split

    if data is not None:
        if tasks:
            raise ValueError("give --task or --data, not both")
        from saccade.inputs.data import read_jsonl

        return split(read_jsonl(data), settings)
    from saccade.calibration.drawing import draw
    from saccade.glance.tasks import TASKS

    count, found = len(tasks) or len(TASKS), []
    for number, wanted in enumerate((settings.num_samples, settings.num_held_out)):
        # Another seed is another draw of scenes, so the two share none.
        pool = of_suite(tasks, -(-wanted // count), "calibration", 2 * settings.seed + number, embedded)
        found.append(draw(pool, wanted, "stratified", settings.seed))
    return made(found[0], found[1], settings)


def of_suite(tasks: Sequence[str], each: int, split: str, seed: int, embedded: Embedded) -> list[Sample]:
    """So many samples of each of some tasks of a suite, or of all of them; another seed is other scenes."""
    from saccade.glance import suite

    names: list[str | None] = [*dict.fromkeys(tasks)] or [None]
    scenes = seed % (1 << 16)  # the suite numbers its seeds with 16 bits
    return [s for name in names for s in suite.samples(name, each, split, scenes, embedded.scale)]
