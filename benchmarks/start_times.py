"""How long commands take to start, beside what they cannot do without: torch, and a model's own class.

    python benchmarks/start_times.py [--repeats 5] [--source src]

Every case is a program of its own. Cases take turns, so that a busy machine weighs on all of them alike, and
what counts is the median of user and system time; wall time stands beside it. A command is told as a ratio
over ``import torch``, ``from saccade import apply`` over torch and the class of LLaVA.
"""

from __future__ import annotations

import argparse
import os
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from saccade.measure import record
from saccade.system.files import write_json

ROOT = Path(__file__).resolve().parent.parent
OUT = Path(__file__).parent / "results" / "start_times.json"

TORCH = "import torch"
LLAVA = "import torch; from transformers import LlavaForConditionalGeneration"
APPLY = "from saccade import apply"
COMMANDS = (
    "methods",
    "study list",
    "plan show 'vskip(layers=12-31)'",
    "plan validate 'fastv(layer=3,keep=0.5)'",
    "cost llava-1.5-7b --plan 'vskip(budget=19)'",
    "nosuch",
    "eval nosuch",
    "eval glance --task nosuch",
    "generate glance --question 'how many?' --plan 'vskip(layer=3)'",
    "calibrate glance --budget 2 --score nosuch",
    "calibrate glance --nosuch",
)
"""Commands that list, look and price, and refusals of a wrong name or option."""
MOST = {APPLY: (1.1, LLAVA)} | dict.fromkeys(COMMANDS, (1.5, TORCH))
"""The ratio that each may take, and over what."""


def main() -> None:
    """Times all cases in turns and writes the result file; exit code 1 where a ratio is above its limit."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--source", type=Path, default=ROOT / "src", help="where the package is")
    parser.add_argument("--out", type=Path, default=OUT)
    chosen = parser.parse_args()
    cases = [TORCH, LLAVA, APPLY, *COMMANDS]
    runs: dict[str, list[tuple[float, float]]] = {case: [] for case in cases}
    for case in cases:
        timed(case, chosen.source)  # into the page cache
    for number in range(chosen.repeats):
        # Whoever comes first changes every time.
        for case in cases[number % len(cases) :] + cases[: number % len(cases)]:
            runs[case].append(timed(case, chosen.source))
    found = {case: told(case, runs) for case in cases}
    command = f"python benchmarks/start_times.py --repeats {chosen.repeats}"
    facts = {"kind": "start", "repeats": chosen.repeats, "cases": found}
    write_json(chosen.out, facts | {"provenance": record(command)})
    for case, one in found.items():
        ratio = f"{one['ratio']:.2f} (at most {one['most']})" if "ratio" in one else ""
        print(f"{one['cpu_s']:7.2f} s of CPU {one['wall_s']:7.2f} s  {ratio:20s} {case}")
    if any(one["ratio"] > one["most"] for one in found.values() if "ratio" in one):
        raise SystemExit(1)


def timed(case: str, source: Path) -> tuple[float, float]:
    """Seconds of CPU and of wall time that one program takes."""
    words = ["-c", case] if case in (TORCH, LLAVA, APPLY) else ["-m", "saccade", *shlex.split(case)]
    start = time.perf_counter()
    program = subprocess.Popen(
        [sys.executable, *words],
        env=os.environ | {"PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, _, used = os.wait4(program.pid, 0)
    return used.ru_utime + used.ru_stime, time.perf_counter() - start


def told(case: str, runs: dict[str, list[tuple[float, float]]]) -> dict[str, Any]:
    """Medians of a case, and its ratio over what it is held against."""
    cpu, wall = (statistics.median(run[i] for run in runs[case]) for i in (0, 1))
    found: dict[str, Any] = {"cpu_s": cpu, "wall_s": wall, "runs": runs[case]}
    if case in MOST:
        most, base = MOST[case]
        found |= {"ratio": cpu / statistics.median(run[0] for run in runs[base]), "most": most, "over": base}
    return found


if __name__ == "__main__":
    main()
