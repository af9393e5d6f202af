"""The whole rehearsal: ``python -m rehearsal --out FILE --python PYTHON...``.

Every case runs as a program of its own on every checkpoint, under each interpreter given, with the real
tokenizers that npm ships. The result file is written after every case; cases that ran are replaced in it, so
that a part can be run again with ``--only``, and what is left of an interrupted run with ``--missing``. Ends
with exit code 1 where anything failed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock, get_ident
from typing import Any

from rehearsal import checkpoint, layout, scene, tables
from rehearsal.cases import CASES, PLANS, Case, Place
from rehearsal.running import Runner, forked, program, with_needs
from saccade.measure import record
from saccade.system.files import read_json, write_json

COMMAND = "make checkpoints"
WITHOUT, WITH = "without torchvision", "with torchvision"

Cell = dict[str, Any]
Key = tuple[str, str, str]


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
    parser.add_argument("--missing", action="store_true", help="only cases that have not passed yet")
    parser.add_argument(
        "--warm", action="store_true", help="fork the programs from one with its imports done"
    )
    parser.add_argument("--jobs", type=int, default=1, help="checkpoints that run side by side")
    given = parser.parse_args(words)
    tables.fetch(given.cache)
    work = given.work.resolve()
    shown = scene.make(work / "scene")
    # Not resolved: the link is what tells a virtual environment.
    pythons = {environment(os.path.abspath(python)): os.path.abspath(python) for python in given.python}
    book = Book(given.out)
    first, done = next(iter(pythons)), book if given.missing else None
    wanted = [
        (where, one, chosen)
        for where in pythons
        for one in checkpoint.every().values()
        if (chosen := cases(one, where, given.only, done, again=where != first))
    ]
    # One after the other: transformers cannot be imported by two threads at once.
    models = {one.short: model(one, work, given.cache, given.missing) for _, one, _ in wanted}

    hosts: dict[tuple[int, str], Runner] = {}

    def runner_of(where: str) -> Runner:
        if not given.warm:
            return program(pythons[where])
        mine = get_ident(), where
        if mine not in hosts:
            hosts[mine] = forked(pythons[where])
        return hosts[mine]

    def run(where: str, one: checkpoint.Checkpoint, chosen: list[Case]) -> list[Cell]:
        own = work / where.replace(" ", "-") / one.short
        shutil.rmtree(own, ignore_errors=True)  # commands refuse to write over what others left
        own.mkdir(parents=True)
        place = Place(one, models[one.short], shown, own)
        how = "forked" if given.warm else "program"
        runner = runner_of(where)
        return [book.add(tried(case, place, runner, where) | {"run": how}) for case in chosen]

    with ThreadPoolExecutor(given.jobs) as pool:
        seen = [cell for cells in pool.map(lambda told: run(*told), wanted) for cell in cells]
    failed = [cell for cell in seen if cell["why"]]
    print(f"{len(seen) - len(failed)} of {len(seen)} cases passed; wrote {given.out}", flush=True)
    return 1 if failed else 0


def cases(one: checkpoint.Checkpoint, where: str, only: str, done: Book | None, again: bool) -> list[Case]:
    """The cases to run on a checkpoint, with those that they need, in their order.

    Args:
        one: The checkpoint.
        where: The environment.
        only: What their names hold.
        done: The result file, where what has passed is left out.
        again: Whether this is a further environment, in which some cases would only say the same.
    """
    fits = (case for case in CASES if case.suits(one, where == WITH))
    suits = (case for case in fits if only in f"{one.short}/{case.name}")
    left = (case for case in suits if not (again and case.once))
    return with_needs(case for case in left if done is None or not done.passed(one.name, where, case.name))


def model(one: checkpoint.Checkpoint, work: Path, cache: Path, again: bool) -> Path:
    """The folder of a checkpoint, which both environments read: made anew, or that of the interrupted run."""
    folder = work / "models" / one.short
    if again and folder.exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    return layout.build(one, folder, cache)


def tried(case: Case, place: Place, runner: Any, where: str) -> Cell:
    """Runs a case; what is wrong, if anything, is told in ``why``."""
    start, why, kept = time.perf_counter(), "", {}
    try:
        kept = case.judge(place, runner(case, place))
    except (AssertionError, ValueError, KeyError, subprocess.TimeoutExpired) as error:
        why = f"{type(error).__name__}: {error}"
    seconds = time.perf_counter() - start
    one = place.checkpoint
    print(f"{where}, {one.short}, {case.name}: {why or 'passed'} ({seconds:.0f} s)", flush=True)
    named = {"checkpoint": one.name, "family": one.family, "environment": where}
    told = {"case": case.name, "group": case.group, "why": why, "seconds": round(seconds, 1)}
    # Where the copies lie on this machine is nobody's business.
    found = json.dumps(named | told | kept)
    for folder in (place.model.parent, place.work, place.scene.folder):
        found = found.replace(f"{folder}/", "")
    return json.loads(found)


def environment(python: str) -> str:
    """What an interpreter's environment is called."""
    done = subprocess.run([python, "-c", "import torchvision"], capture_output=True, env=dict(os.environ))
    return WITHOUT if done.returncode else WITH


class Book:
    """The result file, written whole after every case.

    Args:
        out: Its path; what it holds of cases that there still are stays until they run again.
    """

    def __init__(self, out: Path) -> None:
        self.out, self._lock = out, Lock()
        self._order = {case.name: number for number, case in enumerate(CASES)}
        before = read_json(out)["cells"] if out.exists() else []
        self._cells = {self._key(cell): cell for cell in before if cell["case"] in self._order}

    def _key(self, cell: Cell) -> Key:
        return cell["checkpoint"], cell["environment"], cell["case"]

    def _place(self, cell: Cell) -> tuple[str, str, int]:
        return cell["checkpoint"], cell["environment"], self._order[cell["case"]]

    def passed(self, *key: str) -> bool:
        """Whether a case (checkpoint, environment, name) has passed."""
        found = self._cells.get((key[0], key[1], key[2]))
        return found is not None and not found["why"]

    def add(self, cell: Cell) -> Cell:
        """Puts what was seen in its place, and gives it back."""
        commands = [group for group in dict.fromkeys(case.group for case in CASES) if group not in PLANS]
        groups = {"commands": commands, "methods": list(PLANS)}
        with self._lock:
            self._cells[self._key(cell)] = cell
            cells = sorted(self._cells.values(), key=self._place)
            write_json(self.out, {"groups": groups, "cells": cells, "provenance": record(COMMAND)})
        return cell


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
