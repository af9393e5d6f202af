"""What two processes run for test_parallel: FSDP2 on batches of the collator, against one process.

Rank 0 has a batch with images, rank 1 one of text alone.
"""

from __future__ import annotations

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from saccade.engine import apply
from saccade.training.collate import Collator
from support import pair
from training.test_encode import CONVERSATIONS
from training.tiny import llava

SPEC = "ffn_skip(layers=0-3)"
RECORDS = [[CONVERSATIONS[2], CONVERSATIONS[0]], [CONVERSATIONS[1], CONVERSATIONS[4]]]


def batches(loaded, always_image: bool):
    return [Collator(loaded, 500, always_image)(records) for records in RECORDS]


def alone() -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    """Losses of both batches over the labels of both, and the gradients of their sum, in one process."""
    loaded = llava()
    found = batches(loaded, always_image=False)
    items = sum(batch.counts.labels for batch in found)
    with apply(loaded.model, SPEC):
        losses = [loaded.model(**batch.inputs, num_items_in_batch=items).loss for batch in found]
        torch.stack(losses).sum().backward()
    gradients = {name: p.grad for name, p in loaded.model.named_parameters() if p.grad is not None}
    return [loss.detach() for loss in losses], gradients


def sharded(rank: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    loaded = llava()
    loaded.model.train()
    found = batches(loaded, always_image=True)
    items = sum(batch.counts.labels for batch in found)
    mesh = init_device_mesh("cpu", (2,))
    for layer in loaded.family.parts(loaded.model).layers:
        fully_shard(layer, mesh=mesh)
    for layer in loaded.family.tower(loaded.model).layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(loaded.model, mesh=mesh)
    handle = apply(loaded.model, SPEC)
    loss = loaded.model(**found[rank].inputs, num_items_in_batch=items).loss
    # FSDP averages gradients over processes, so their sum is twice that; the trainer scales the same way.
    (2 * loss).backward()
    handle.remove()
    named = loaded.model.named_parameters()
    return loss.detach(), {name: p.grad.full_tensor() for name, p in named if p.grad is not None}


def job(rank: int) -> None:
    losses, want = alone()
    loss, got = sharded(rank)
    torch.testing.assert_close(loss, losses[rank], atol=1e-5, rtol=1e-5)
    assert got.keys() >= want.keys() and len(want) > 40
    for name, gradient in want.items():
        torch.testing.assert_close(got[name], gradient, atol=1e-5, rtol=1e-4, msg=name)


if __name__ == "__main__":
    pair.work(job)
