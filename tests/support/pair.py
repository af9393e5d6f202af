"""Two processes that work together over gloo: the script of both, and the test that starts them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist

from support.programs import ROOT, start

RANKS = range(2)
TIMEOUT_S = 200


def run(script: str, folder: Path) -> None:
    """Runs a script of `tests/` as two processes, and fails with what they said unless both end well.

    Args:
        script: Its path under ``tests/``; it calls `work`.
        folder: An empty folder in which they meet.
    """
    workers = [start(ROOT / "tests" / script, rank, folder) for rank in RANKS]
    ended = [worker.ended(TIMEOUT_S) for worker in workers]
    assert all((folder / f"done{rank}").exists() for rank in RANKS), "\n".join(one.err for one in ended)


def folder() -> Path:
    """Where the processes meet: files of one are seen by the other."""
    return Path(sys.argv[2])


def work(job: Callable[[int], None]) -> None:
    """Does a rank's job in a process that `run` has started, once it has met the other.

    Args:
        job: What a rank does.
    """
    rank, shared = int(sys.argv[1]), folder()
    torch.set_num_threads(1)
    # The store is a file, so that no port is taken.
    store = dist.FileStore(str(shared / "store"), len(RANKS))
    dist.init_process_group("gloo", store=store, rank=rank, world_size=len(RANKS))
    job(rank)
    (shared / f"done{rank}").touch()
    dist.destroy_process_group()
