"""Two processes: DDP and FSDP2 under a plan give the losses and gradients of one process."""

from __future__ import annotations

import os
import subprocess
import sys


def test_ddp_and_fsdp2_equal_one_process(root, tmp_path):
    paths = [str(root / "src"), str(root / "tests")]
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    script = str(root / "tests" / "engine" / "parallel.py")
    workers = [
        subprocess.Popen(
            [sys.executable, script, str(rank), str(tmp_path)],
            env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        outputs = [worker.communicate(timeout=200)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert all((tmp_path / f"done{rank}").exists() for rank in range(2)), "\n".join(outputs)
