"""Command line of the training module, for machines without the `saccade` command."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path


def main(argv: list[str] | None = None) -> None:
    """Train, or export what was trained."""
    from saccade.research.embedded.checkpoint import export
    from saccade.research.embedded.train import TrainConfig, train

    default = TrainConfig()
    parser = argparse.ArgumentParser(
        prog="python -m saccade.research.embedded.main", description=main.__doc__
    )
    parser.add_argument("--steps", type=int, default=default.steps)
    parser.add_argument(
        "--minutes", type=float, default=default.minutes, help="lay the schedule over time instead of steps"
    )
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--run-dir", type=Path, default=Path("runs/glance"))
    parser.add_argument("--threads", type=int, default=default.threads)
    parser.add_argument("--resume", action="store_true", help="continue the run in --run-dir")
    parser.add_argument(
        "--export", type=Path, metavar="FOLDER", help="write the run's weights to FOLDER and stop"
    )
    chosen = parser.parse_args(argv)
    if chosen.export:
        print(export(chosen.run_dir, chosen.export))
        return
    config = replace(
        default, minutes=chosen.minutes, steps=chosen.steps, seed=chosen.seed, threads=chosen.threads
    )
    train(config, chosen.run_dir, chosen.resume)


if __name__ == "__main__":
    main()
