"""What tests on a Ray cluster share: the program in a group of its own, and processes of actors."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def raylets() -> Iterator[Any]:
    """A cluster of three raylets, each a machine with one CPU to Ray."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        for _ in range(2):
            made.add_node(num_cpus=1)
        made.wait_for_nodes()
        yield made
    finally:
        made.shutdown()


def began(*words: object) -> subprocess.Popen[str]:
    """``saccade`` as a program, in a group of its own, so that it can be killed with all that it started."""
    program = [sys.executable, "-m", "saccade", *map(str, words)]
    return subprocess.Popen(program, stderr=subprocess.PIPE, text=True, start_new_session=True)


def actors(begins: str) -> list[int]:
    """Processes of actors: ``BatchWorker``, or ``HelperActor.run`` for those that are at something."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            name = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if name.startswith(f"ray::{begins}".encode()):
            found.append(int(entry.name))
    return found


def wait_for(done: Callable[[], object], seconds: float = 240) -> None:
    """Waits until something is so."""
    limit = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < limit, "nothing happened"
        time.sleep(0.01)
