"""Programs on this checkout: the environment they run in, and what a command leaves behind."""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]


class Result(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as JSON: all of it."""
        return json.loads(self.out)


def environment(*folders: Path) -> dict[str, str]:
    """The environment of a program on this checkout's package, with more folders to import from.

    It gets one thread, and over gloo it speaks to this machine alone.
    """
    paths = [str(ROOT / "src"), *map(str, folders), os.environ.get("PYTHONPATH", "")]
    own = {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    return os.environ | own


class Started:
    """A program that runs.

    Attributes:
        pid: Its process.
    """

    def __init__(self, server: Server, pid: int, folder: tempfile.TemporaryDirectory) -> None:
        self._server, self.pid, self._folder = server, pid, folder

    def said(self) -> str:
        """Its standard output so far."""
        out = Path(self._folder.name) / "out"
        return out.read_text("utf-8") if out.exists() else ""

    def ended(self, timeout: float = 240) -> Result:
        """What it left behind, once it has ended; it is killed when it takes longer."""
        limit = threading.Timer(timeout, lambda: os.kill(self.pid, signal.SIGKILL))
        limit.start()
        try:
            code = self._server.ask({"wait": self.pid})
        finally:
            limit.cancel()
        with self._folder:
            out, err = ((Path(self._folder.name) / name).read_text("utf-8") for name in ("out", "err"))
        return Result(code, out, err)


class Server:
    """A process of ``support/serve.py``: programs begin in its forks, with what they import at hand.

    Args:
        python: The interpreter; this process's own if omitted.
        env: Its environment; that of a program on this checkout if omitted.
    """

    def __init__(self, python: str = sys.executable, env: Mapping[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            [python, str(ROOT / "tests" / "support" / "serve.py")],
            env=dict(environment(ROOT / "tests") if env is None else env),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        atexit.register(self._process.kill)

    def ask(self, what: Mapping[str, Any]) -> int:
        """One question, and its answer."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the process that begins programs has ended"
        return int(json.loads(answer))

    def start(self, words: list[str], cwd: Path, env: Mapping[str, str]) -> Started:
        """Begins a program: ``-m`` and a module with its words, or the path of a script with them."""
        folder = tempfile.TemporaryDirectory()
        files = {name: str(Path(folder.name) / name) for name in ("out", "err")}
        pid = self.ask({"words": words, "cwd": str(cwd), "env": dict(env), **files})
        return Started(self, pid, folder)


@cache
def server() -> Server:
    """The one of this process of tests."""
    return Server()


def start(*words: object, cwd: Path = ROOT, env: Mapping[str, str] | None = None) -> Started:
    """Begins a program of this checkout, such as ``-m saccade methods``, without waiting for imports."""
    own = environment(ROOT / "tests") if env is None else env
    return server().start([str(word) for word in words], cwd, own)
