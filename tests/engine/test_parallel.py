"""Two processes: DDP, FSDP2 and tensor parallel under a plan give what one process gives."""

from __future__ import annotations

from support import pair


def test_ddp_and_fsdp2_equal_one_process(tmp_path):
    pair.run("engine/parallel.py", tmp_path)


def test_tensor_parallel_chooses_the_rows_of_one_process(tmp_path):
    pair.run("engine/parallel_heads.py", tmp_path)
