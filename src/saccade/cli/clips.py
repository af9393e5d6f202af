"""``saccade clips``: small videos with questions, written out for any model that takes videos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from saccade.cli import common


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("clips")(clips)


def clips(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to; it must not exist yet.")],
    task: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="moved or order; both by default.")
    ] = None,
    samples: Annotated[int, common.count("Videos of each task.", 100_000)] = 48,
    seed: common.Seed = 0,
    json: common.Json = None,
) -> None:
    """Write small videos with questions: what moved where, and in which order things appeared.

    A folder of frames for every video, and clips.jsonl beside them, which eval, calibrate and tune take as
    --data.

    Example: saccade clips clips --samples 24
    """
    out = common.Output(json)
    from saccade.glance import clips as drawn

    tasks = tuple(dict.fromkeys(task or drawn.GUESSED))
    for name in tasks:
        drawn.check_task(name)
    with common.progress() as bar:
        going = bar.add_task("drawing", total=samples * len(tasks))
        file = drawn.write(folder, samples, seed, tasks, lambda: bar.advance(going))
    out.line(f"wrote {file}: {samples * len(tasks)} questions")
    guessed = {name: drawn.GUESSED[name] for name in tasks}
    out.finish(
        {"file": str(file), "tasks": list(tasks), "samples": samples, "seed": seed, "guessed": guessed}
    )
