"""The whole rehearsal: ``python -m rehearsal --out FILE --python PYTHON...``.

Every case runs as a program of its own on every checkpoint, under each interpreter given, with the real
tokenizers that npm ships. The result file holds what was seen; cases that ran are replaced in it, so that a
part can be run again with ``--only``. Ends with exit code 1 where anything failed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rehearsal import checkpoint, layout, scene, tables
from rehearsal.cases import CASES, PLANS, Place
from rehearsal.running import program, with_needs
from saccade.system.files import read_json, write_json

COMMAND = "make checkpoints"
WITHOUT, WITH = "without torchvision", "with torchvision"


def main(words: Sequence[str] | None = None) -> int:
    """Runs it.

    Returns:
        0, or 1 where a case failed.
    """
    parser = argparse.ArgumentParser(prog="python -m rehearsal", description="Rehearse every checkpoint.")
    parser.add_argument("--out", type=Path, required=True, help="result file")
    parser.add_argument("--python", action="append", required=True, help="an interpreter; repeatable")
    parser.add_argument("--work", type=Path, required=True, help="folder for models and what commands write")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "saccade" / "tokenizers")
    parser.add_argument("--only", default="", help="cases whose CHECKPOINT/NAME holds this")
    parser.add_argument("--jobs", type=int, default=1, help="checkpoints that run side by side")
    given = parser.parse_args(words)
    tables.fetch(given.cache)
    work = given.work.resolve()
    shown = scene.make(work / "scene")
    # Not resolved: the link is what tells a virtual environment.
    pythons = {environment(os.path.abspath(python)): os.path.abspath(python) for python in given.python}
    places = [
        (where, python, one) for where, python in pythons.items() for one in checkpoint.every().values()
    ]

    def run(told: tuple[str, str, checkpoint.Checkpoint]) -> list[dict[str, Any]]:
        where, python, one = told
        chosen = with_needs(c for c in CASES if given.only in f"{one.short}/{c.name}" and c.suits(one))
        if not chosen:
            return []
        own = work / where.replace(" ", "-") / one.short
        shutil.rmtree(own, ignore_errors=True)  # commands refuse to write over what others left
        own.mkdir(parents=True)
        model = layout.build(one, own / "model", given.cache)
        place = Place(one, model, shown, own)
        runner = program(python)
        return [tried(case, place, runner, where) for case in chosen]

    with ThreadPoolExecutor(given.jobs) as pool:
        seen = [row for rows in pool.map(run, places) for row in rows]
    write_json(given.out, joined(given.out, seen))
    failed = [row for row in seen if row["why"]]
    print(f"{len(seen) - len(failed)} of {len(seen)} cases passed; wrote {given.out}", flush=True)
    return 1 if failed else 0


def tried(case: Any, place: Place, runner: Any, where: str) -> dict[str, Any]:
    """Runs a case; what is wrong, if anything, is told in ``why``."""
    start, why = time.perf_counter(), ""
    try:
        case.judge(place, runner(case, place))
    except (AssertionError, ValueError, KeyError, subprocess.TimeoutExpired) as error:
        why = f"{type(error).__name__}: {error}"
    seconds = time.perf_counter() - start
    one = place.checkpoint
    print(f"{where}, {one.short}, {case.name}: {why or 'passed'} ({seconds:.0f} s)", flush=True)
    named = {"checkpoint": one.name, "family": one.family, "environment": where}
    return named | {"case": case.name, "group": case.group, "why": why}


def environment(python: str) -> str:
    """What an interpreter's environment is called."""
    done = subprocess.run([python, "-c", "import torchvision"], capture_output=True, env=dict(os.environ))
    return WITHOUT if done.returncode else WITH


def joined(out: Path, seen: list[dict[str, Any]]) -> dict[str, Any]:
    """The result file's content: what it holds, with what was seen now in its place."""
    from saccade.measure import record

    def key(row: dict[str, Any]) -> tuple[str, str, str]:
        return row["checkpoint"], row["environment"], row["case"]

    def place(row: dict[str, Any]) -> tuple[str, str, int]:
        return row["checkpoint"], row["environment"], order[row["case"]]

    before = read_json(out)["cells"] if out.exists() else []
    order = {case.name: number for number, case in enumerate(CASES)}
    cells = {key(row): row for row in before if row["case"] in order} | {key(row): row for row in seen}
    listed = sorted(cells.values(), key=place)
    commands = [group for group in dict.fromkeys(case.group for case in CASES) if group not in PLANS]
    groups = {"commands": commands, "methods": list(PLANS)}
    return {"groups": groups, "cells": listed, "provenance": record(COMMAND)}


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
