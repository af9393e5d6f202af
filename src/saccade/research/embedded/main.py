"""Command line of the training module, for machines where the package is not installed."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path


def main(argv: list[str] | None = None) -> None:
    """Train an embedded model, or export what was trained."""
    from saccade.research.embedded.checkpoint import export
    from saccade.research.embedded.recipe import RECIPES
    from saccade.research.embedded.train import schedule_of, train

    parser = argparse.ArgumentParser(
        prog="python -m saccade.research.embedded.main", description=main.__doc__
    )
    parser.add_argument("name", choices=sorted(RECIPES))
    parser.add_argument("--steps", type=int)
    parser.add_argument("--minutes", type=float, help="lay the schedule over time instead of steps")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--device")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--start", metavar="FOLDER", help="begin the last stage with the weights in FOLDER")
    parser.add_argument("--run", type=Path)
    parser.add_argument("--resume", action="store_true", help="continue the run in --run")
    parser.add_argument("--export", type=Path, metavar="FOLDER", help="write the run's weights and stop")
    given = {key: value for key, value in vars(parser.parse_args(argv)).items() if value is not None}
    name, run = given.pop("name"), given.pop("run", None)
    run, resume = run or Path("runs") / name, given.pop("resume")
    if "export" in given:
        print(export(run, given["export"]))
        return
    if resume:
        given |= schedule_of(run, given)
    config = RECIPES[name].config
    if "batch" in given:
        config = config.with_batch(given.pop("batch"))
    if "start" in given:
        config = config.going_on(given.pop("start"))
    train(replace(config, **given), run, resume, RECIPES[name].sizes)


if __name__ == "__main__":
    main()
