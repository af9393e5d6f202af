"""What was seen in the vision tower, in row coordinates.

Shape letters: B batch, N rows, R visual rows in placeholder order, T views, P patches, V tower width,
D decoder width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch.nn.utils.rnn import pad_sequence

from saccade.core.bipartite import TowerMerge
from saccade.core.layout import Layout
from saccade.core.precision import wide
from saccade.core.predicted import TowerPrune
from saccade.core.stages import Grid, TowerLayer, Unseen, Vision
from saccade.engine.tower_merge import Merging
from saccade.engine.tower_packed import PackedMerging
from saccade.engine.tower_prune import Pruning
from saccade.engine.tower_scores import TowerScores
from saccade.families.vision import Picture, Tower

Which = Literal["made", "reads"]


@dataclass(eq=False)
class TowerRun:
    """What one run of the tower left behind.

    Attributes:
        given: Arguments of the method that makes the features, by name, while it does.
        scores: What was looked at, by layer.
        states: The states that become features, by their number.
        order: Where the patches of each visual row stand in its layers, where that is not in order.
        merging: Which tokens were merged, if any.
        later: What is left to do once the tower has run.
        received: Attention that rows get of all rows of their view, by the number of the layer.
        pruning: Which rows were left out, if any.
        packed: Which tokens of a packed tower were merged, if any.
    """

    given: Mapping[str, Any] = field(default_factory=dict)
    scores: dict[Which, TowerScores] = field(default_factory=dict)
    states: dict[int, torch.Tensor] = field(default_factory=dict)
    order: torch.Tensor | None = None
    merging: Merging | None = None
    later: list[Callable[[], None]] = field(default_factory=list)
    received: dict[int, tuple[torch.Tensor, ...]] = field(default_factory=dict)
    pruning: Pruning | None = None
    packed: PackedMerging | None = None


@dataclass(frozen=True, eq=False)
class Seen:
    """One call of ``get_image_features``.

    Attributes:
        picture: Its picture.
        run: What the run of the tower left.
        made: The features of every image.
        merge: How tokens were merged.
        prune: By what rule patches were left out.
    """

    picture: Picture
    run: TowerRun
    made: tuple[torch.Tensor, ...]
    merge: TowerMerge | None
    prune: TowerPrune | None = None


@dataclass(frozen=True, eq=False)
class Captured:
    """What was seen of the images of one forward, in placeholder order.

    Attributes:
        picture: The map from visual rows to patches.
        seen: The calls that made the features; the picture counts patches over all of them.
        views: For every view of the picture, its number over all calls.
        tower: Parts of the tower; None if nothing was wanted of it.
        keys: Which layer serves for ``made`` and for ``reads``.
    """

    picture: Picture
    seen: tuple[Seen, ...]
    views: tuple[int, ...]
    tower: Tower | None
    keys: Mapping[Which, Which]

    def showing(self, shown_R: torch.Tensor) -> Captured:
        """The same without rows that are hidden as padding, and without images of which nothing is shown.

        Args:
            shown_R: Which rows are shown, in placeholder order.

        Raises:
            ValueError: If the images have other rows than the prompt.
        """
        if len(shown_R) != sum(self.picture.lengths):
            raise ValueError(
                f"the images have {sum(self.picture.lengths)} rows, but the prompt has {len(shown_R)} "
                f"placeholders, {int((~shown_R).sum())} of them hidden by the attention mask"
            )
        left, images = self.picture.showing(shown_R)
        views = tuple(self.views[view] for view in self.picture.views_of(images))
        return replace(self, picture=left, views=views)


def grid(picture: Picture, layout: Layout, device: torch.device) -> Grid | None:
    """Where the rows of a forward lie in the picture; None where only their number is known."""
    if not picture.mapped:
        return None
    names = ("line_R", "column_R", "plane_R")
    line, column, plane = (_rows(getattr(picture, name), layout, -1).to(device) for name in names)
    return Grid(line, column, plane, _rows(picture.box_R4, layout, 0).to(device))


def left(captured: Captured, layout: Layout, device: torch.device) -> torch.Tensor | None:
    """Rows (B, N) whose patches passed the tower; None where it left none out."""
    runs = [one.run.pruning for one in captured.seen]
    if any(run is None for run in runs):
        return None
    keep_R = torch.cat([run.keep_R.to(device) for run in runs if run is not None])
    patch_BN = _rows(captured.picture.patch_R, layout, -1).to(device)
    return (patch_BN >= 0) & keep_R[patch_BN.clamp(min=0)]


def vision(
    captured: Captured,
    which: Which,
    layout: Layout,
    embeddings_BND: torch.Tensor,
    received: tuple[TowerLayer, ...] = (),
) -> Vision:
    """What the tower knows of the visual rows, in row coordinates.

    Args:
        captured: What was seen.
        which: Which layer is looked at; where the tower has one of the two alone, it serves for both.
        layout: Where the visual rows are.
        embeddings_BND: What enters the decoder.
        received: Layers in which attention of all rows is wanted.

    Raises:
        ValueError: If the layout has other rows than the images, or rows are no patches.
    """
    tower, device = captured.tower, embeddings_BND.device
    assert tower is not None
    if not captured.picture.mapped:
        raise ValueError(
            "this plan takes rows for patches of the picture, but it is not known which patch a row of this "
            "model is (they are laid out anew): choose a method that scores rows in the decoder"
        )
    key = captured.keys[which]
    numbers = tuple(tower.number(layer) for layer in received)
    found = [_Patches.of(one.run, key, tower, device, numbers) for one in captured.seen]
    patch_BN = _rows(captured.picture.patch_R, layout, -1).to(device)
    view_BN = _rows(captured.picture.view_R, layout, -1).to(device)
    shown_BN = patch_BN >= 0
    at_BN = patch_BN.clamp(min=0)
    into_BN = sizes_BN = None
    groups = [f.groups for f in found if f.groups is not None]
    mix = _mixture(captured.picture, layout, device)
    if groups:
        refuse_mixed(captured.picture)
        # A tower that merges makes the images alone, in one run.
        (one,) = groups
        into_BN = _holders(one.group_P[at_BN], view_BN, one.count, len(captured.views))
        shown_BN = shown_BN & (into_BN == torch.arange(layout.rows, device=device))
        sizes_BN = one.sizes_P[at_BN] * shown_BN

    def spread(name: str) -> torch.Tensor:
        return placed(torch.cat([getattr(f, name) for f in found]))

    def placed(x_P: torch.Tensor) -> torch.Tensor:
        mask = shown_BN.view(*shown_BN.shape, *[1] * (x_P.ndim - 1))
        if mix is None:
            return torch.where(mask, x_P[at_BN], x_P.new_zeros(()))
        total = x_P.new_zeros(())
        for part_BN, share_BN in mix:
            total = total + x_P[part_BN] * share_BN.view_as(mask).to(x_P.dtype)
        return torch.where(mask, total, x_P.new_zeros(()))

    def elsewhere(name: str, patch_BE: torch.Tensor) -> torch.Tensor:
        return torch.cat([getattr(f, name) for f in found])[patch_BE.to(device)]

    views_T = torch.tensor(captured.views, dtype=torch.long, device=device)
    cls = [f.cls_TV for f in found if f.cls_TV is not None]
    if tower.projector is None:
        features = torch.where(shown_BN[..., None], embeddings_BND, embeddings_BND.new_zeros(()))
    else:
        features = spread("features_PV")
    return Vision(
        patch_BN=patch_BN >= 0,
        view_BN=view_BN,
        attention_BN=spread("attention_P"),
        single_BN=spread("single_P"),
        keys_BNV=spread("keys_PV"),
        heads=captured.seen[0].run.scores[key].heads,
        features_BNV=features,
        cls_TV=torch.cat(cls)[views_T] if cls else None,
        project=tower.projector or _itself,
        into_BN=into_BN,
        sizes_BN=sizes_BN,
        # Where patches are merged, those without a row are part of others that have one.
        unseen=None if groups or tower.projector is None else _unseen(captured.picture, layout, elsewhere),
        received_BN=tuple(
            placed(torch.cat(parts)) for parts in zip(*(f.received for f in found), strict=True)
        ),
    )


@dataclass(frozen=True, eq=False)
class _Groups:
    """Patches that were merged.

    Attributes:
        count: More than the highest number of a group.
        group_P: Number, in its view, of the group that holds the patch.
        sizes_P: Patches in that group.
    """

    count: int
    group_P: torch.Tensor
    sizes_P: torch.Tensor


@dataclass(frozen=True, eq=False)
class _Patches:
    """One run of the tower, patch by patch over all its views, without the CLS rows.

    Attributes:
        attention_P: See ``Vision``.
        single_P: See ``Vision``.
        keys_PV: See ``Vision``.
        features_PV: Features, None where the tower merges patches itself.
        cls_TV: Features of the CLS rows, or None.
        groups: Which patches were merged; None where none were.
        received: See ``Vision.received_BN``, each (P).
    """

    attention_P: torch.Tensor
    single_P: torch.Tensor
    keys_PV: torch.Tensor
    features_PV: torch.Tensor | None
    cls_TV: torch.Tensor | None
    groups: _Groups | None
    received: tuple[torch.Tensor, ...]

    @classmethod
    def of(
        cls, run: TowerRun, key: Which, tower: Tower, device: torch.device, received: tuple[int, ...] = ()
    ) -> _Patches:
        """Reads a run."""
        merging, first = run.merging, int(tower.has_cls)
        where = merging.where_TP if merging is not None else None

        def patches(x_TN: torch.Tensor) -> torch.Tensor:
            if where is not None:
                at = where.view(*where.shape, *[1] * (x_TN.ndim - 2)).expand(-1, -1, *x_TN.shape[2:])
                x_TN = x_TN.gather(1, at)
            return x_TN[:, first:].flatten(0, 1)

        def rows(parts: tuple[torch.Tensor, ...]) -> torch.Tensor:
            x = torch.cat([patches(part) for part in parts])
            if run.order is not None and run.order.ndim == 2:
                return _means(x, run.order.to(x.device)).to(device)
            if run.order is not None:
                x = x[run.order.to(x.device)]
            if tower.merge > 1:
                x = wide(x).unflatten(0, (-1, tower.merge)).mean(1).to(x.dtype)
            return x.to(device)

        scores = run.scores[key]
        states = [run.states[number] for number in tower.states]
        state = torch.cat(states, dim=-1) if states else None
        groups = None
        if merging is not None and merging.sizes_TN is not None and where is not None:
            sizes_P = patches(merging.sizes_TN).round().long()
            groups = _Groups(where.shape[1], where[:, first:].flatten().to(device), sizes_P.to(device))
        return cls(
            rows(scores.attention),
            rows(scores.single),
            rows(scores.keys),
            None if state is None else patches(state).to(device),
            state[:, 0].to(device) if state is not None and tower.has_cls else None,
            groups,
            tuple(rows(run.received[number]) for number in received),
        )


def _means(x_P: torch.Tensor, order_RM: torch.Tensor) -> torch.Tensor:
    """Means of the patches that each row joins, as many as it has."""
    held_RM = order_RM >= 0
    wide_RM = held_RM.view(*held_RM.shape, *[1] * (x_P.ndim - 1))
    total = torch.where(wide_RM, wide(x_P)[order_RM.clamp(min=0)], 0).sum(1)
    return (total / wide_RM.sum(1)).to(x_P.dtype)


def _rows(x_R: torch.Tensor, layout: Layout, fill: int) -> torch.Tensor:
    """Values of visual rows at their places (B, N), something else elsewhere; host tensors."""
    if len(x_R) != int(layout.visual_BN.sum()):
        raise ValueError(
            f"the images have {len(x_R)} rows, but the prompt has {int(layout.visual_BN.sum())} visual rows"
        )
    placed = torch.full((layout.batch, layout.rows, *x_R.shape[1:]), fill, dtype=x_R.dtype)
    placed[layout.visual_BN] = x_R
    return placed


def _unseen(
    picture: Picture, layout: Layout, spread: Callable[[str, torch.Tensor], torch.Tensor]
) -> Unseen | None:
    """Patches that no row holds, sample by sample; ``spread`` gives what the tower says of some patches."""
    if not any(len(missing) for missing in picture.unseen):
        return None
    samples, left = [], iter(picture.unseen)
    for b, counts in enumerate(layout.counts):
        here = []
        for image in range(len(counts)):
            missing, rows = next(left), (layout.image_BN[b] == image).nonzero()[:, 0]
            # After the last row of an image stands none of its own.
            before = torch.cat((rows, rows[-1:] + 1))[missing[:, 2]]
            owner = torch.full_like(before, image)
            here.append(torch.stack((missing[:, 0], missing[:, 1], owner, before), 1))
        samples.append(torch.cat(here) if here else torch.zeros(0, 4, dtype=torch.long))
    table_BE4 = pad_sequence(samples, batch_first=True, padding_value=-1)
    patch_BE, view_BE, image_BE, before_BE = table_BE4.unbind(-1)
    names = ("attention_P", "keys_PV", "features_PV")
    return Unseen(view_BE, image_BE, before_BE, *(spread(name, patch_BE.clamp(min=0)) for name in names))


def refuse_mixed(picture: Picture) -> None:
    """Refuses to merge tokens in the tower where rows are made of several of them afterwards.

    Raises:
        ValueError: If rows are.
    """
    if picture.mix_RM is not None:
        raise ValueError(
            "this plan merges tokens inside the vision tower, but this model interpolates the features of "
            "these images afterwards (a video, or tiles beyond its budget), so that a row is no token of the "
            "tower: choose a method that merges before or in the decoder"
        )


def _mixture(
    picture: Picture, layout: Layout, device: torch.device
) -> list[tuple[torch.Tensor, torch.Tensor]] | None:
    """Patches that rows are interpolated between and their shares, each (B, N); None where no row is."""
    if picture.mix_RM is None or picture.share_RM is None:
        return None
    mix_BNM, share_BNM = _rows(picture.mix_RM, layout, 0), _rows(picture.share_RM, layout, 0)
    pairs = zip(mix_BNM.clamp(min=0).unbind(-1), share_BNM.unbind(-1), strict=True)
    return [(patch.to(device), share.to(device)) for patch, share in pairs]


def _holders(group_BN: torch.Tensor, view_BN: torch.Tensor, groups: int, views: int) -> torch.Tensor:
    """The first row of each row's group, for patches; of other rows themselves."""
    rows_BN = torch.arange(group_BN.shape[1], device=group_BN.device).expand_as(group_BN)
    shown = view_BN >= 0
    slot = torch.where(shown, view_BN * groups + group_BN, views * groups)
    first = rows_BN.new_full((views * groups + 1,), group_BN.shape[1])
    first.scatter_reduce_(0, slot.flatten(), rows_BN.flatten(), "amin")
    return torch.where(shown, first[slot], rows_BN)


def _itself(x: torch.Tensor) -> torch.Tensor:
    return x
