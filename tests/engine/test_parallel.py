"""Two processes: DDP and FSDP2 under a plan give the losses and gradients of one process."""

from __future__ import annotations

from support import pair


def test_ddp_and_fsdp2_equal_one_process(tmp_path):
    pair.run("engine/parallel.py", tmp_path)
