"""Programs on this checkout: the environment they run in, and what a command leaves behind."""

from __future__ import annotations

import json
import os
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
