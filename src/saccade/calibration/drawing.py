"""Which samples a calibration looks at, and a hash of what they hold (pure)."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from typing import Literal, Protocol, TypeVar

from saccade.inputs.samples import Sample

Draw = Literal["global", "stratified"]


class _Grouped(Protocol):
    @property
    def task(self) -> str: ...

    @property
    def subtask(self) -> str: ...


T = TypeVar("T", bound=_Grouped)


def draw(pool: Sequence[T], n: int, how: Draw = "global", seed: int = 0) -> list[T]:
    """Draws samples without replacement; the same seed and pool give the same samples.

    Args:
        pool: Samples, or anything with a ``task`` and a ``subtask``.
        n: How many.
        how: ``global``: uniformly from all; ``stratified``: in turn from each sub-task, so that their counts
            differ by at most one while they last.
        seed: Of the draw.

    Raises:
        ValueError: If the pool holds fewer than ``n``, or ``n`` is not positive.
    """
    check_draw(how)
    if not pool:
        raise ValueError("there are no samples to draw from")
    if n < 1:
        raise ValueError(f"at least one sample is needed, asked for {n}")
    if n > len(pool):
        raise ValueError(f"asked for {n} samples, but there are {len(pool)}: ask for fewer or give more data")
    rng = random.Random(seed)
    if how == "global":
        return rng.sample(list(pool), n)
    groups: dict[tuple[str, str], list[T]] = {}
    for item in pool:
        groups.setdefault((item.task, item.subtask), []).append(item)
    # Sorted first, so that the order of groups does not hang on the order of the pool.
    queues = [rng.sample(groups[key], len(groups[key])) for key in sorted(groups)]
    rng.shuffle(queues)
    drawn: list[T] = []
    while len(drawn) < n:
        for queue in queues:
            if queue and len(drawn) < n:
                drawn.append(queue.pop())
    return drawn


def check_draw(how: str) -> None:
    """Raises ``ValueError`` for an unknown way to draw."""
    if how not in ("global", "stratified"):
        raise ValueError(f"draw is global or stratified, got {how!r}")


def data_hash(samples: Sequence[Sample]) -> str:
    """SHA-256 of the questions, image pixels and videos, in order."""
    digest = hashlib.sha256()
    for sample in samples:
        for part in (sample.id.encode(), sample.question.encode()):
            digest.update(len(part).to_bytes(8, "little") + part)
        for image in sample.images:
            digest.update(f"{image.mode} {image.size}".encode())
            digest.update(image.tobytes())
        for video in sample.videos:
            digest.update(video.digest.encode())
    return digest.hexdigest()
