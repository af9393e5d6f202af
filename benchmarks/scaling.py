"""What more processes are worth: the same work by one process and by several, in turns.

    python benchmarks/scaling.py [--processes 2] [--ray ADDRESS] [--repeats 3] [--out FILE]

Each process computes with one CPU thread. Helpers open their model first (how long it takes is told apart),
then the work of every command is done by this process alone and by all, in turns, and what counts is the
median of the wall time. *Efficiency* is the time of one over the time of all and their number. Results are
compared too: what several find is what one finds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from saccade import models
from saccade.calibration import calibrate
from saccade.evaluation.comparison import compare
from saccade.glance import suite
from saccade.helpers import Helpers, helping
from saccade.measure import record
from saccade.system.files import write_json
from saccade.system.journal import Journal
from saccade.tuning import Settings, Watch
from saccade.tuning.questions import split
from saccade.tuning.run import run

OUT = Path(__file__).parent / "results" / "scaling.json"
Work = Callable[[Helpers[Any] | None], Any]


def main() -> None:
    """Times the work, and writes the result file."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument(
        "--ray", metavar="ADDRESS", help="a cluster that gives the others; local for one here"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--questions", type=int, default=390, help="of the evaluation")
    parser.add_argument("--samples", type=int, default=104, help="of the calibration and the search")
    parser.add_argument("--passes", type=int, default=4000, help="of the search")
    parser.add_argument("--model", default="glance")
    parser.add_argument("--out", type=Path, default=OUT)
    chosen = parser.parse_args()
    if chosen.processes < 2:
        parser.error("--processes is a number from 2")
    torch.set_num_threads(1)
    loaded = models.load(chosen.model, device="cpu")
    said: list[str] = []
    with helping(loaded, chosen.processes, ray=chosen.ray, say=said.append) as helpers:
        assert helpers is not None
        start = time.perf_counter()
        while helpers.ready < chosen.processes - 1:
            helpers.take(None, waiting)
            list(helpers.done())
            time.sleep(0.05)
        opened = time.perf_counter() - start
        list(helpers.done(wait_for_one=True))
        cases = works(loaded, chosen)
        found = {name: timed(work, helpers, chosen.repeats) for name, work in cases.items()}
    if said:
        raise SystemExit(f"a helper was lost, so nothing is measured: {said[0]}")
    for one in found.values():
        one["speedup"] = one["one_s"] / one["all_s"]
        one["efficiency"] = one["speedup"] / chosen.processes
    asked = {key: value for key, value in vars(chosen).items() if key not in ("out", "model")}
    facts = {"kind": "scaling", **asked, "opening_s": round(opened, 2), "cases": found}
    write_json(chosen.out, facts | {"provenance": record(model=loaded.model)})
    for name, one in found.items():
        print(
            f"{name:10s} {one['one_s']:8.2f} s by one, {one['all_s']:8.2f} s by {chosen.processes}: "
            f"{one['speedup']:.2f} times as fast"
        )


def waiting(loaded: models.Loaded) -> None:
    """A part without work, with which a helper says that it is there."""


def plans(layers: int) -> list[str]:
    """What is evaluated: a plan of every kind, for a model of so many layers."""
    return [
        f"vskip(layers={2 * layers // 3}-{layers - 1})",
        "divprune(keep=0.5)",
        f"fastv(layer={max(1, layers // 6)},keep=0.5)+shortv(layers={layers - 3}-{layers - 2})",
    ]


def works(loaded: models.Loaded, chosen: argparse.Namespace) -> dict[str, Work]:
    """What is timed, by command; each gives what it found, without what differs from run to run."""
    pool = suite.samples(None, n=max(2, chosen.samples // 6), split="calibration")
    asked = suite.samples(None, n=max(2, chosen.questions // 13))[: chosen.questions]
    settings = Settings(
        flops=0.5, num_samples=chosen.samples, num_held_out=chosen.samples, passes=chosen.passes
    )
    questions = split(pool, settings)

    def evaluated(helpers: Helpers[Any] | None) -> Any:
        specs = plans(loaded.shape.layers)
        return compare(loaded.model, loaded.processor, asked, specs, batch_size=16, helpers=helpers).to_dict()

    def calibrated(helpers: Helpers[Any] | None) -> Any:
        few = {"num_samples": min(chosen.samples, len(pool)), "answer_tokens": 8, "check": False}
        made = calibrate(loaded.model, loaded.processor, pool, budget=4, helpers=helpers, **few)
        return made.spec, made.calibration["scores"]

    def tuned(helpers: Helpers[Any] | None) -> Any:
        found = run(loaded, questions, settings, Journal(None), Watch(), helpers=helpers)
        return found.data["tune"]["tried"], found.data["tune"]["front"]

    return {"eval": evaluated, "calibrate": calibrated, "tune": tuned}


def timed(work: Work, helpers: Helpers[Any], repeats: int) -> dict[str, Any]:
    """Median wall seconds by this process alone and by all, in turns.

    Raises:
        SystemExit: If they find different things.
    """
    taken: dict[str, list[float]] = {"one": [], "all": []}
    for _ in range(repeats):
        results = []
        for name, by in (("one", None), ("all", helpers)):
            start = time.perf_counter()
            results.append(work(by))
            taken[name].append(time.perf_counter() - start)
        if results[0] != results[1]:
            raise SystemExit("several processes found something else than one")
    return {f"{name}_s": statistics.median(each) for name, each in taken.items()} | {
        "runs": {name: [round(one, 3) for one in each] for name, each in taken.items()}
    }


if __name__ == "__main__":
    main()
