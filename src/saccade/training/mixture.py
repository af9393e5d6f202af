"""The order of a run: which record is seen when, decided by the seed alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import count

import numpy as np
from torch.utils.data import Dataset, Sampler

from saccade.training.records import BadRecord, Conversation
from saccade.training.sources import RecordPool

Key = tuple[int, int, int]
"""Source, record and epoch."""


class RecordMixture(Dataset):
    """Records of several sources. A record that cannot be loaded comes back as the error that says why.

    Attributes:
        pools: The sources.
        seed: Seed of the order.
    """

    def __init__(self, pools: Sequence[RecordPool], seed: int) -> None:
        self.pools, self.seed = list(pools), seed

    @property
    def shares(self) -> list[Fraction]:
        """Records of every source per epoch, on average: exactly what the weights say as they are written."""
        return [len(pool) * Fraction(str(pool.weight)) for pool in self.pools]

    @property
    def per_epoch(self) -> float:
        """Records per epoch, on average."""
        return float(sum(self.shares))

    def __len__(self) -> int:
        """Records of an epoch, rounded up; an epoch may have one more or less of each source."""
        return math.ceil(sum(self.shares))

    def __getitem__(self, key: Key) -> Conversation | BadRecord:
        source, index, epoch = key
        try:
            return self.pools[source].load(index, epoch)
        except BadRecord as error:
            return error

    def order(self, epoch: int, most: int | None = None) -> list[tuple[int, int]]:
        """Source and record of every position of an epoch.

        Every record is seen as often as its source's weight says, rounded down, and a random draw of the
        records once more, another in every epoch. What a share leaves over goes on into the next epoch, so
        that the weight is met on average, however small it is.

        Args:
            epoch: Which, from 0.
            most: How many of its first positions; all if omitted.
        """
        sources, records = [], []
        for number, (pool, share) in enumerate(zip(self.pools, self.shares, strict=True)):
            rng = np.random.default_rng((self.seed, epoch, number, 17))
            whole = math.floor(pool.weight)
            extra = math.floor((epoch + 1) * share) - math.floor(epoch * share) - whole * len(pool)
            more = rng.permutation(len(pool))[:extra]
            records.append(np.concatenate([np.tile(np.arange(len(pool)), whole), more]))
            sources.append(np.full(len(records[-1]), number))
        every = np.stack([np.concatenate(sources), np.concatenate(records)])
        order = np.random.default_rng((self.seed, epoch, 19)).permutation(every.shape[1])[:most]
        return [(source, index) for source, index in every[:, order].T.tolist()]


class Stream(Sampler[Key]):
    """The whole run as one sequence of keys, epoch after epoch, so that every global batch is full.

    Attributes:
        mixture: What is drawn from.
        length: Keys of the run: steps times the global batch.
    """

    def __init__(self, mixture: RecordMixture, length: int) -> None:
        """Lays the run out.

        Raises:
            ValueError: If there is less than a record per epoch, or a source that no epoch of the run shows.
        """
        if mixture.per_epoch < 1:
            raise ValueError("the mixture shows less than one record per epoch: raise a source's weight")
        for pool, share in zip(mixture.pools, mixture.shares, strict=True):
            first = math.ceil(1 / share)
            before = sum(math.floor((first - 1) * other) for other in mixture.shares)
            if before >= length:
                raise ValueError(
                    f"{pool.name} would never be seen: {len(pool)} records at weight {pool.weight:g} show "
                    f"the first one in epoch {first}, and the run ends before; raise its weight or "
                    "leave it out"
                )
        self.mixture, self.length = mixture, length

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Key]:
        left = self.length
        for epoch in count():
            order = self.mixture.order(epoch, left)
            for source, index in order:
                yield source, index, epoch
            left -= len(order)
            if not left:
                return


def steps_of(records: float, epochs: float | None, steps: int | None, global_batch: int) -> int:
    """Steps of a run: as given, or as many as show the mixture so many times, the last batch filled up."""
    if steps is not None:
        return steps
    assert epochs is not None
    return max(1, math.ceil(epochs * records / global_batch))


def warmup_of(warmup: int | float, steps: int) -> int:
    """Steps over which the learning rate rises: as given, or the share of all steps, rounded up.

    A share leaves the last step: a rise begins with a learning rate of 0, and a run of one step would learn
    nothing.
    """
    return int(warmup) if warmup >= 1 else min(math.ceil(steps * warmup), steps - 1)
