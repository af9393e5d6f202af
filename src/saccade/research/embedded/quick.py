"""A cheap look at skill while training: teacher-forced exact match on held-out scenes."""

from __future__ import annotations

from collections import defaultdict

import torch

from saccade.research.embedded.data import Batches, network_inputs
from saccade.research.embedded.network import Network


@torch.no_grad()
def accuracy(network: Network, batches: Batches, count: int) -> dict[str, float]:
    """Share of questions whose every answer token is the most likely one, per task and as ``"mean"``.

    With greedy decoding this is exact match: the first wrong token spoils both.
    """
    from saccade.glance.tasks import TASK_NAMES

    right: dict[str, list[bool]] = defaultdict(list)
    for number in range(count):
        batch = {name: tensor.to(network.device) for name, tensor in batches[number].items()}
        passed = network.answer(**network_inputs(batch, batches.prefix))
        assert passed.logits is not None
        hit = passed.logits.argmax(-1) == batch["targets"]
        for row in range(len(hit)):
            tags = batch["tasks"][row]
            for tag in tags[tags >= 0].unique().tolist():
                right[TASK_NAMES[tag % 64]].append(bool(hit[row][tags == tag].all()))
    scores = {f"accuracy/{task}": round(sum(v) / len(v), 4) for task, v in sorted(right.items())}
    if scores:
        scores["accuracy/mean"] = round(sum(scores.values()) / len(scores), 4)
    return scores
