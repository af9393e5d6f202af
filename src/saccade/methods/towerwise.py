"""Candidates of the reducers before the decoder: views or images of ragged size, side by side in tables.

How many patches a view has is needed on the host: a choice by views waits for the device, before the decoder.

Shape letters: B batch, N rows, T groups (views or images) that are reduced, P members of a group.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.utils.rnn import pad_sequence

from saccade.select import per_row, ranks, split
from saccade.stages import Counts, Evidence, Vision


@dataclass(frozen=True, eq=False)
class Groups:
    """Candidates by group, in row order.

    Attributes:
        rows_TP: Row of each member, counted through the batch (sample times N, plus row); 0 at padding.
        real_TP: False at padding.
        sizes: Members of every group.
        sample: Sample of every group.
        image: Image of every group inside its sample.
        number: What the group is numbered by; of a view its row in ``Vision.cls_TV``.
        keep: Rows every group keeps: its share of the image's, in proportion to members.
    """

    rows_TP: torch.Tensor
    real_TP: torch.Tensor
    sizes: tuple[int, ...]
    sample: tuple[int, ...]
    image: tuple[int, ...]
    number: tuple[int, ...]
    keep: tuple[int, ...]

    def take(self, x_BN: torch.Tensor) -> torch.Tensor:
        """What stands at the members' rows, (T, P, ...), of a tensor (B, N, ...)."""
        return x_BN.flatten(0, 1)[self.rows_TP]

    def put(self, x_TP: torch.Tensor, like_BN: torch.Tensor) -> torch.Tensor:
        """A tensor (B, N), shaped like another, with the members' values at their rows; 0 elsewhere."""
        flat = torch.zeros(like_BN.numel() + 1, dtype=x_TP.dtype, device=x_TP.device)
        flat[self.rows_TP.masked_fill(~self.real_TP, like_BN.numel())] = x_TP
        return flat[:-1].view(like_BN.shape)

    def top(self, scores_TP: torch.Tensor, keep: tuple[int, ...]) -> torch.Tensor:
        """Boolean (T, P): the highest-scored members of every group, ties by position."""
        one_group_TP = torch.zeros_like(self.rows_TP)
        return self.real_TP & (ranks(scores_TP, self.real_TP, one_group_TP) < self.column(keep))

    def column(self, values: tuple[int, ...]) -> torch.Tensor:
        """One number per group, (T, 1), on the device."""
        return torch.tensor(values, dtype=torch.long, device=self.rows_TP.device)[:, None]

    def split(self, amounts: Counts, sizes: tuple[int, ...]) -> tuple[int, ...]:
        """Shares of the groups in an amount of every image, in proportion to sizes."""
        return _split(tuple(zip(self.sample, self.image, strict=True)), amounts, sizes)

    def totals(self, evidence: Evidence, kept: tuple[int, ...]) -> Counts:
        """Rows every image keeps if its groups keep so many; images that lose nothing keep all."""
        table = [
            [0 if lost else found for lost, found in zip(*one, strict=True)]
            for one in zip(loses(evidence), evidence.found, strict=True)
        ]
        for b, i, n in zip(self.sample, self.image, kept, strict=True):
            table[b][i] += n
        return tuple(tuple(sample) for sample in table)


def loses(evidence: Evidence) -> Counts:
    """1 for every image that has to lose rows, 0 for those that stay as they are."""
    both = zip(evidence.keep, evidence.found, strict=True)
    return tuple(tuple(int(k < f) for k, f in zip(*sample, strict=True)) for sample in both)


def losing_rows(evidence: Evidence) -> torch.Tensor:
    """Candidates (B, N) of images that have to lose rows."""
    return evidence.alive_BN & (per_row(loses(evidence), evidence.image_BN) > 0)


def alive_on_host(evidence: Evidence) -> torch.Tensor:
    """The candidates (B, N) on the host; waits for the device only where rows have been dropped before."""
    if evidence.found == evidence.layout.counts:
        return evidence.layout.visual_BN
    return evidence.alive_BN.cpu()


def seen(name: str, evidence: Evidence) -> Vision:
    """What the tower knows.

    Raises:
        ValueError: If nothing.
    """
    if evidence.vision is None:
        raise ValueError(
            f"{name} chooses by what the vision tower computes, and none of that can be seen here (images "
            "given as embeddings, or a tower without an adapter): give pixel_values, or use divprune, random"
        )
    return evidence.vision


def by_view(evidence: Evidence, vision: Vision) -> Groups:
    """Candidate patches of images that lose rows, view by view. Waits for the device."""
    number_BN = vision.view_BN.masked_fill(~(losing_rows(evidence) & vision.patch_BN), -1)
    return _grouped(evidence, number_BN.cpu(), vision.view_BN.device)


def by_image(evidence: Evidence) -> Groups:
    """Candidates of images that lose rows, image by image."""
    losing_BN = per_row(loses(evidence), evidence.layout.image_BN) > 0
    number_BN = evidence.layout.image_BN.masked_fill(~(losing_BN & alive_on_host(evidence)), -1)
    return _grouped(evidence, number_BN, evidence.alive_BN.device)


def _grouped(evidence: Evidence, number_BN: torch.Tensor, device: torch.device) -> Groups:
    rows: list[torch.Tensor] = []
    owners: list[tuple[int, int, int]] = []
    for b, number_N in enumerate(number_BN):
        for number in number_N[number_N >= 0].unique().tolist():
            members = (number_N == number).nonzero()[:, 0]
            owners.append((b, int(evidence.layout.image_BN[b, members[0]]), number))
            rows.append(members + b * number_BN.shape[1])
    sizes = tuple(len(r) for r in rows)
    rows_TP = pad_sequence(rows, batch_first=True) if rows else torch.zeros(0, 1, dtype=torch.long)
    real_TP = torch.arange(rows_TP.shape[1]) < torch.tensor(sizes, dtype=torch.long)[:, None]
    sample, image, number = (tuple(o[part] for o in owners) for part in range(3))
    keep = _split(tuple(zip(sample, image, strict=True)), evidence.keep, sizes)
    return Groups(rows_TP.to(device), real_TP.to(device), sizes, sample, image, number, keep)


def _split(owners: tuple[tuple[int, int], ...], amounts: Counts, sizes: tuple[int, ...]) -> tuple[int, ...]:
    shares = [0] * len(owners)
    for b, i in set(owners):
        mine = [t for t, owner in enumerate(owners) if owner == (b, i)]
        for t, share in zip(mine, split(amounts[b][i], tuple(sizes[t] for t in mine)), strict=True):
            shares[t] = share
    return tuple(shares)
