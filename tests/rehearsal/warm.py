"""Programs that share their imports: one process for each interpreter reads lines and forks for every one.

Importing torch and transformers takes longer than most cases do. A child that is forked after them runs the
module as ``python -m`` would, in a process of its own, with its own words, folder and streams.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

from rehearsal.cases import Case, Place
from rehearsal.running import LIMIT, OUTSIDE, Runner, words
from support.programs import ROOT, Result, environment


@contextmanager
def warm(python: str) -> Iterator[Runner]:
    """Runs cases under an interpreter that has imported what they need, one after the other."""
    own = environment(ROOT / "tests") | OUTSIDE
    host = subprocess.Popen(
        [python, "-m", "rehearsal.warm"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=own
    )
    assert host.stdin is not None and host.stdout is not None
    asks, answers = host.stdin, host.stdout

    def run(case: Case, place: Place) -> Result:
        with TemporaryDirectory() as folder:
            out, err = Path(folder, "out"), Path(folder, "err")
            asked = {"module": case.program, "words": words(case, place), "folder": str(place.work)}
            asks.write(json.dumps(asked | {"out": str(out), "err": str(err)}) + "\n")
            asks.flush()
            code = json.loads(answers.readline())
            return Result(code, out.read_text(encoding="utf-8"), err.read_text(encoding="utf-8"))

    try:
        yield run
    finally:
        asks.close()
        host.wait()


def main() -> int:
    """Forks for every line of standard input, and writes the exit code of each.

    Returns:
        0.
    """
    import saccade.calibration
    import saccade.check
    import saccade.evaluation.comparison
    import saccade.measure
    import saccade.models
    import saccade.report.explain
    import saccade.research.analysis
    import saccade.training  # noqa: F401 - what commands import as they go

    for line in sys.stdin:
        asked = json.loads(line)
        child = os.fork()
        if not child:
            _become(asked)
        print(_awaited(child), flush=True)
    return 0


def _awaited(child: int) -> int:
    """The exit code of a child, which is ended where it takes too long."""
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _become(asked: dict[str, Any]) -> NoReturn:
    """Runs a module in this process as its main program, and ends with its exit code."""
    code = 1
    try:
        for number, path in ((0, os.devnull), (1, asked["out"]), (2, asked["err"])):
            os.dup2(os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT, 0o600), number)
        os.chdir(asked["folder"])
        sys.argv = [asked["module"], *asked["words"]]
        runpy.run_module(asked["module"], run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    raise SystemExit(main())
