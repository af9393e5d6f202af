"""Samples to search or heal on, and those that judge what came of it, as commands draw them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from saccade.system.embedded import GLANCE, Embedded

if TYPE_CHECKING:
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
    from saccade.glance import suite

    names: list[str | None] = [*dict.fromkeys(tasks)] or [None]
    count = len(tasks) or len(suite.TASKS)
    found = []
    for number, wanted in enumerate((settings.num_samples, settings.num_held_out)):
        # Another seed is another draw of scenes, so the two share none.
        scenes = (2 * settings.seed + number) % (1 << 16)
        each = -(-wanted // count)
        pool = [s for n in names for s in suite.samples(n, each, "calibration", scenes, embedded.scale)]
        found.append(draw(pool, wanted, "stratified", settings.seed))
    return made(found[0], found[1], settings)
