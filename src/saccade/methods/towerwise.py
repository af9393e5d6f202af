"""Candidates of the reducers before the decoder: views or images of ragged size, side by side in tables.

How many patches a view has is needed on the host: a choice by views waits for the device, before the decoder.

Shape letters: B batch, N rows, T groups (views or images) that are reduced, P members of a group.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch.nn.utils.rnn import pad_sequence

from saccade.core.select import per_row, ranks, split
from saccade.core.stages import Counts, Evidence, Unseen, Vision


@dataclass(frozen=True, eq=False)
class Spare:
    """Members that are patches without a row (``Vision.unseen``).

    Attributes:
        is_TP: Which they are.
        number_TP: Which patch without a row each is, counted through the batch; 0 at others.
        lives_TP: Members of all kinds in whose places something lives on, once that is known.
        seats_TP: Rows that those among them without one were given, counted through the batch; -1 at others.
    """

    is_TP: torch.Tensor
    number_TP: torch.Tensor
    lives_TP: torch.Tensor | None = None
    seats_TP: torch.Tensor | None = None


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
        keep: Rows every group keeps: its share of the image's, in proportion to members, or a number of its
            own.
        bases: What fractions of a group are of: its members, or the patches that its view had.
        order_TP: Integers from 0, below ``span``, by which the members of all groups of an image stand in
            raster order.
        span: See ``order_TP``.
        spare: Members that are patches without a row, None where there are none.
    """

    rows_TP: torch.Tensor
    real_TP: torch.Tensor
    sizes: tuple[int, ...]
    sample: tuple[int, ...]
    image: tuple[int, ...]
    number: tuple[int, ...]
    keep: tuple[int, ...]
    bases: tuple[int, ...]
    order_TP: torch.Tensor
    span: int
    spare: Spare | None = None

    @property
    def own_TP(self) -> torch.Tensor:
        """Members that are rows."""
        return self.real_TP if self.spare is None else self.real_TP & ~self.spare.is_TP

    @property
    def homes_TP(self) -> torch.Tensor:
        """Rows where members live, counted through the batch; -1 for those that have none."""
        homes_TP, spare = self.rows_TP.masked_fill(~self.own_TP, -1), self.spare
        if spare is None or spare.seats_TP is None or spare.lives_TP is None:
            return homes_TP
        return torch.where(spare.is_TP, spare.seats_TP, homes_TP.masked_fill(~spare.lives_TP, -1))

    def take(self, x_BN: torch.Tensor) -> torch.Tensor:
        """What stands at the members' rows, (T, P, ...), of a tensor (B, N, ...)."""
        return x_BN.flatten(0, 1)[self.rows_TP]

    def of(self, vision: Vision, part: Callable[[Vision | Unseen], torch.Tensor]) -> torch.Tensor:
        """What the tower knows of the members, (T, P, ...), of those without a row too."""
        found = self.take(part(vision))
        if self.spare is None or vision.unseen is None:
            return found
        spare_TP, unseen = self.spare.is_TP, part(vision.unseen).flatten(0, 1)[self.spare.number_TP]
        return torch.where(spare_TP.view(*spare_TP.shape, *[1] * (found.ndim - 2)), unseen, found)

    def put(self, x_TP: torch.Tensor, like_BN: torch.Tensor) -> torch.Tensor:
        """A tensor (B, N), shaped like another, with the members' values where they live; 0 elsewhere."""
        flat = torch.zeros(like_BN.numel() + 1, dtype=x_TP.dtype, device=x_TP.device)
        homes_TP = self.homes_TP
        flat[torch.where(homes_TP < 0, like_BN.numel(), homes_TP)] = x_TP
        return flat[:-1].view(like_BN.shape)

    def seated(self, evidence: Evidence, lives_TP: torch.Tensor) -> Groups:
        """The same with a row for every member that lives on: those without one get rows that are dropped.

        Args:
            evidence: What the decision was given.
            lives_TP: Members in whose places something lives on.
        """
        if self.spare is None:
            return self
        image_BN = evidence.image_BN
        dropped_BN = losing_rows(evidence) & ~self.put(lives_TP, image_BN)
        place_BN = ranks(torch.zeros_like(dropped_BN, dtype=torch.float32), dropped_BN, image_BN)
        batch, rows = image_BN.shape
        images = max(map(len, evidence.found))
        sample_B1 = torch.arange(batch, device=image_BN.device)[:, None]
        slot_BN = (sample_B1 * images + image_BN) * rows + place_BN
        flat = torch.full((batch * images * rows + 1,), -1, device=image_BN.device)
        number_BN = torch.arange(batch * rows, device=image_BN.device).view(batch, rows)
        flat[slot_BN.masked_fill(~dropped_BN, len(flat) - 1).flatten()] = number_BN.flatten()
        flat[-1] = -1
        # Groups of an image stand together: a member's number among those of its image that want a seat.
        wants_TP = lives_TP & self.spare.is_TP
        before_T = wants_TP.sum(1).cumsum(0) - wants_TP.sum(1)
        owners = list(zip(self.sample, self.image, strict=True))
        first_T1 = before_T[self.column(tuple(owners.index(owner) for owner in owners))]
        number_TP = wants_TP.flatten().cumsum(0).view(wants_TP.shape) - 1 - first_T1
        owner_T1 = self.column(tuple(b * images + i for b, i in owners))
        at_TP = torch.where(wants_TP, owner_T1 * rows + number_TP, len(flat) - 1)
        return replace(self, spare=replace(self.spare, lives_TP=lives_TP, seats_TP=flat[at_TP]))

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


def by_whole_view(
    evidence: Evidence, vision: Vision, wanted: Callable[[int], int], whole: bool = False
) -> Groups:
    """The same with all patches of every view, the padding of tiles too, and a number for each of its own.

    Waits for the device. Where earlier methods have dropped rows of an image, its padding is no candidate.

    Args:
        evidence: What the decision was given.
        vision: What the tower knows.
        wanted: How many rows a view of so many patches keeps.
        whole: Whether it is asked of all patches that a view had, else of as many as are alive.
    """
    groups, layout = by_view(evidence, vision), evidence.layout
    assert layout.views is not None
    if vision.unseen is not None:
        groups = _with_unseen(groups, evidence, vision.unseen)
    seen: dict[tuple[int, int], int] = {}
    bases = []
    for b, i in zip(groups.sample, groups.image, strict=True):
        place = seen[b, i] = seen.get((b, i), -1) + 1
        views = layout.views[b][i]
        # A view all of whose rows are gone has no group, and those of one size need no telling apart.
        patches, original = views[min(place, len(views) - 1)], layout.counts[b][i]
        alive = original if whole else evidence.found[b][i]
        bases.append(as_alive(patches, alive, original))
    keep = tuple(min(wanted(base), size) for base, size in zip(bases, groups.sizes, strict=True))
    return replace(groups, keep=keep, bases=tuple(bases))


def as_alive(patches: int, found: int, original: int) -> int:
    """Patches of a view, as far as its image is alive."""
    return patches if found >= original else patches * found // original


def _with_unseen(groups: Groups, evidence: Evidence, unseen: Unseen) -> Groups:
    """The groups with the patches that no row holds where they belong in raster order."""
    (batch, rows), extra = evidence.alive_BN.shape, unseen.view_BE.shape[1]
    device, span = groups.rows_TP.device, extra + 1
    lists, own_TP, order_TP = [], groups.rows_TP.cpu(), groups.order_TP.cpu()
    for t, (b, i, size) in enumerate(zip(groups.sample, groups.image, groups.sizes, strict=True)):
        # Rows by number, the others by number behind all rows of the batch.
        row_P, order_P = own_TP[t, :size], order_TP[t, :size] * span + extra
        if evidence.found[b][i] == evidence.layout.counts[b][i]:
            more = (unseen.view_BE[b] == groups.number[t]).nonzero()[:, 0]
            row_P = torch.cat((row_P, batch * rows + b * extra + more))
            order_P = torch.cat((order_P, unseen.before_BE[b, more] * span + more))
        by = order_P.argsort()
        lists.append((row_P[by], order_P[by]))
    sizes = tuple(len(row_P) for row_P, _ in lists)
    if not lists:
        return groups
    number_TP, order_TP = (pad_sequence(list(part), batch_first=True) for part in zip(*lists, strict=True))
    real_TP = torch.arange(number_TP.shape[1]) < torch.tensor(sizes)[:, None]
    is_TP = (number_TP >= batch * rows) & real_TP
    spare = Spare(is_TP.to(device), torch.where(is_TP, number_TP - batch * rows, 0).to(device))
    return replace(
        groups,
        rows_TP=number_TP.masked_fill(is_TP, 0).to(device),
        real_TP=real_TP.to(device),
        sizes=sizes,
        order_TP=order_TP.to(device),
        span=(groups.span + 1) * span,
        spare=spare,
    )


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
    rows_TP = rows_TP.to(device)
    return Groups(
        rows_TP,
        real_TP.to(device),
        sizes,
        sample,
        image,
        number,
        keep,
        bases=sizes,
        order_TP=rows_TP % number_BN.shape[1],
        span=number_BN.shape[1],
    )


def _split(owners: tuple[tuple[int, int], ...], amounts: Counts, sizes: tuple[int, ...]) -> tuple[int, ...]:
    shares = [0] * len(owners)
    for b, i in set(owners):
        mine = [t for t, owner in enumerate(owners) if owner == (b, i)]
        for t, share in zip(mine, split(amounts[b][i], tuple(sizes[t] for t in mine)), strict=True):
            shares[t] = share
    return tuple(shares)
