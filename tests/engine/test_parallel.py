"""Two processes: DDP, FSDP2 and tensor parallel under a plan give what one process gives."""

from __future__ import annotations

import pytest
import torch

from saccade.engine import apply
from support import pair
from support.models import SQUARE, tiny_llava


@pytest.mark.e2e
def test_ddp_and_fsdp2_equal_one_process(tmp_path):
    pair.run("engine/parallel.py", tmp_path)


@pytest.mark.e2e
def test_tensor_parallel_chooses_the_rows_of_one_process(tmp_path):
    pair.run("engine/parallel_heads.py", tmp_path)


@pytest.mark.parametrize(
    ("spec", "part"),
    [
        ("vskip(layers=1)", "input_layernorm"),
        ("vskip(layers=1)", "self_attn.o_proj"),
        ("ffn_skip(layers=1)", "input_layernorm"),
        ("ffn_skip(layers=1)", "mlp.down_proj"),
        ("fastv(layer=1,keep=0.5)", "input_layernorm"),
        ("fastv(layer=1,keep=0.5)", "self_attn.o_proj"),
        ("fastv(layer=1,keep=0.5)", "mlp.down_proj"),
    ],
)
@torch.no_grad()
def test_rows_that_are_split_over_processes_are_refused(spec, part):
    """Sequence parallel: a process has its share of the rows before or after what it works on."""
    tiny = tiny_llava()
    module = tiny.model.model.language_model.layers[1].get_submodule(part)
    module.register_forward_hook(lambda module, args, out: out[:, : out.shape[1] // 2])
    with apply(tiny.model, spec), pytest.raises(ValueError, match="sequence parallel is not supported"):
        tiny.model(**tiny.batch([[3, SQUARE, 5]]))
