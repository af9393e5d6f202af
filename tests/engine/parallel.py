"""What two processes run for test_parallel: a plan on a DDP and on an FSDP2 model, against one process."""

from __future__ import annotations

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from saccade.engine import apply
from support import pair
from support.models import SQUARE, tiny_llava

SPEC = "vskip(layers=0-1)+shortv(layers=1)+vtw(layer=2)"
SAMPLES = [[3, SQUARE, 5], [2, SQUARE, 6]]
PROBE = "model.language_model.layers.1.self_attn.q_proj.weight"


def batch(tiny, rank: int) -> dict:
    inputs = tiny.batch([SAMPLES[rank]], seed=rank)
    return inputs | {"labels": inputs["input_ids"], "use_cache": False}


def alone(ranks: int) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Losses, and the mean gradient of the probe, in one process."""
    tiny = tiny_llava()
    with apply(tiny.model, SPEC):
        losses = [tiny.model(**batch(tiny, r)).loss for r in range(ranks)]
        torch.stack(losses).mean().backward()
    return [loss.detach() for loss in losses], dict(tiny.model.named_parameters())[PROBE].grad


def check(rank: int, loss: torch.Tensor, gradient: torch.Tensor) -> None:
    losses, want = alone(2)
    torch.testing.assert_close(loss.detach(), losses[rank], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradient, want, atol=1e-5, rtol=1e-4)


def data_parallel(rank: int) -> None:
    tiny = tiny_llava()
    tiny.model.train()
    wrapped = DistributedDataParallel(tiny.model, find_unused_parameters=True)
    with apply(wrapped, SPEC):
        loss = wrapped(**batch(tiny, rank)).loss
        loss.backward()
    check(rank, loss, dict(tiny.model.named_parameters())[PROBE].grad)


def sharded(rank: int, planned_first: bool) -> None:
    tiny = tiny_llava()
    inputs = batch(tiny, rank)
    handle = apply(tiny.model, SPEC) if planned_first else None
    mesh = init_device_mesh("cpu", (2,))
    for layer in tiny.model.model.language_model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(tiny.model, mesh=mesh)
    handle = handle or apply(tiny.model, SPEC)
    loss = tiny.model(**inputs).loss
    loss.backward()
    handle.remove()
    check(rank, loss, dict(tiny.model.named_parameters())[PROBE].grad.full_tensor())


def job(rank: int) -> None:
    data_parallel(rank)
    sharded(rank, planned_first=False)
    sharded(rank, planned_first=True)


if __name__ == "__main__":
    pair.work(job)
