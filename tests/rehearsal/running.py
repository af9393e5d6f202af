"""Running a case: in this process, as tests mostly do, or as a program under any interpreter."""

from __future__ import annotations

import contextlib
import importlib
import io
import subprocess
from collections.abc import Callable, Iterable
from hashlib import sha256

from rehearsal.cases import CASES, Case, Place
from saccade.cli import main
from support.programs import ROOT, Result, Server, environment

LIMIT = 900
"""Seconds that a program may take."""
OUTSIDE = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
"""What a program's environment says besides."""

Runner = Callable[[Case, Place], Result]


def words(case: Case, place: Place) -> list[str]:
    """A program's words."""
    found = [str(word) for word in case.words(place)]
    return [*found, "--json", "-"] if case.check is not None else found


def within(case: Case, place: Place) -> Result:
    """Runs a case in this process."""
    run = main if case.program == "saccade" else importlib.import_module(case.program).main
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(words(case, place))
    return Result(code, out.getvalue(), err.getvalue())


def forked(python: str) -> Runner:
    """Runs cases as programs of their own, in forks of one that has imported what they need."""
    own = environment(ROOT / "tests") | OUTSIDE
    server = Server(python, own)

    def run(case: Case, place: Place) -> Result:
        asked = ["-m", case.program, *words(case, place)]
        return server.start(asked, place.work, own).ended(LIMIT)

    return run


def program(python: str) -> Runner:
    """Runs cases as programs of their own under an interpreter."""
    own = environment(ROOT / "tests") | OUTSIDE

    def run(case: Case, place: Place) -> Result:
        asked = [python, "-m", case.program, *words(case, place)]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=LIMIT, cwd=place.work, env=own)
        return Result(done.returncode, done.stdout, done.stderr)

    return run


def with_needs(chosen: Iterable[Case]) -> list[Case]:
    """The cases and those whose files they need, in their order."""
    names = {name for case in chosen for name in (case.name, *case.after)}
    return [case for case in CASES if case.name in names]


def draw(key: str) -> float:
    """A number from 0 to 1 that only a name decides."""
    return int.from_bytes(sha256(key.encode()).digest()[:8]) / 2**64
