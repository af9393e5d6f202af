"""The order of a run: which record is seen when, decided by the seed alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Dataset, Sampler

from saccade.training.records import BadRecord, Conversation
from saccade.training.sources import Pool

Key = tuple[int, int, int]
"""Source, record and epoch."""


class Mixture(Dataset):
    """Records of several sources. A record that cannot be loaded comes back as the error that says why.

    Attributes:
        pools: The sources.
        seed: Seed of the order.
    """

    def __init__(self, pools: Sequence[Pool], seed: int) -> None:
        self.pools, self.seed = list(pools), seed

    def __len__(self) -> int:
        """Records per epoch."""
        return sum(round(len(pool) * pool.weight) for pool in self.pools)

    def __getitem__(self, key: Key) -> Conversation | BadRecord:
        source, index, epoch = key
        try:
            return self.pools[source].load(index, epoch)
        except BadRecord as error:
            return error

    def order(self, epoch: int) -> list[tuple[int, int]]:
        """Source and record of every position of an epoch.

        Every record is seen as often as its source's weight says, rounded down, and a random draw of the
        records once more, another in every epoch, so that the weight is met on average.
        """
        keys: list[tuple[int, int]] = []
        for number, pool in enumerate(self.pools):
            rng = np.random.default_rng((self.seed, epoch, number, 17))
            whole = math.floor(pool.weight)
            extra = round(len(pool) * pool.weight) - whole * len(pool)
            more = rng.permutation(len(pool))[:extra]
            keys += [(number, index) for index in [*range(len(pool))] * whole + more.tolist()]
        order = np.random.default_rng((self.seed, epoch, 19)).permutation(len(keys))
        return [keys[i] for i in order]


class Stream(Sampler[Key]):
    """The whole run as one sequence of keys, epoch after epoch, so that every global batch is full.

    Attributes:
        mixture: What is drawn from.
        length: Keys of the run: steps times the global batch.
    """

    def __init__(self, mixture: Mixture, length: int) -> None:
        if not len(mixture):
            raise ValueError("the mixture is empty: raise a source's weight")
        self.mixture, self.length = mixture, length

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Key]:
        size = len(self.mixture)
        for epoch in range(math.ceil(self.length / size)):
            for source, index in self.mixture.order(epoch)[: self.length - epoch * size]:
                yield source, index, epoch


def steps_of(records: int, epochs: float | None, steps: int | None, global_batch: int) -> int:
    """Steps of a run: as given, or as many as show the mixture so many times, the last batch filled up."""
    if steps is not None:
        return steps
    assert epochs is not None
    return max(1, math.ceil(epochs * records / global_batch))
