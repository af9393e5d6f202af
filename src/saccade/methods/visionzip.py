"""VisionZip: dominant patches stay, the others are merged into a few contextual rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch.nn.functional import one_hot

from saccade.core.precision import unit, wide
from saccade.core.stages import Choice, Evidence, Look, Rewrite, Stage, Vision
from saccade.methods.base import STRENGTHS
from saccade.methods.reducer import Amount, read_amount, rows_of
from saccade.methods.registry import register
from saccade.methods.survivors import made_seen, mixed, rewrite_of, settled
from saccade.methods.towerwise import Groups, seen
from saccade.methods.viewwise import ViewReducer


@register
@dataclass(frozen=True)
class VisionZip(ViewReducer):
    """VisionZip (arXiv 2412.04467): the CLS row, the most attended patches, and the rest merged by its keys.

    Newline rows go, as in the official code. Where positions close up, an image's rows come in the official
    order: of the first view CLS, dominant patches, contextual rows; then of all other views the dominant
    patches in raster order, their CLS rows, their contextual rows. Else CLS takes the place of its view's
    first dropped patch, a contextual row that of its target, and patches of a tile's padding those of dropped
    rows. Where the tower has no CLS row, patches are ranked by the attention they receive, and all dominant
    rows are patches.

    Attributes:
        dominant: Dominant rows of every view (``share=image``: of every image), the CLS row among them: a
            number, or a fraction up to 1, rounded down but not to nothing, as in the authors' port to Qwen.
        contextual: Rows into which the rest is merged: likewise, and of the same kind.
    """

    name = "visionzip"
    version = 2
    title = "VisionZip"
    paper = "https://arxiv.org/abs/2412.04467"
    compacts = True

    dominant: Amount = 54
    contextual: Amount = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("dominant", "contextual"):
            object.__setattr__(self, key, read_amount(getattr(self, key), f"visionzip: {key}"))
        if self.counted:
            # Beside a number of rows, 1 and 0 are numbers of rows too.
            for key in ("dominant", "contextual"):
                if getattr(self, key) not in (0, 1) and isinstance(getattr(self, key), float):
                    raise ValueError(
                        "visionzip: dominant and contextual are both numbers of rows or both fractions, got "
                        f"{self.dominant} and {self.contextual}"
                    )
                object.__setattr__(self, key, int(getattr(self, key)))

    @property
    def counted(self) -> bool:
        """Whether the two are numbers of rows, not fractions."""
        return isinstance(self.dominant, int) or isinstance(self.contextual, int)

    def stages(self, num_layers: int) -> tuple[Stage, ...]:
        return (Stage(0, self, look=Look(tower="made"), compact=self.compact, rewrites=True),)

    def count(self, rows: int) -> int:
        if not self.counted and self.dominant + self.contextual > 1 - 1e-9:
            return rows
        return rows_of(self.dominant, rows) + self.merged_into(rows)

    def merged_into(self, rows: int) -> int:
        """Contextual rows of so many."""
        return rows_of(self.contextual, rows)

    def max_strength(self, num_layers: int, order: Sequence[int] | None = None) -> int:
        return STRENGTHS

    def at_strength(self, strength: int) -> VisionZip:
        keep = (STRENGTHS - strength) / STRENGTHS
        contextual = round(keep * self.contextual / ((self.dominant + self.contextual) or 1), 6)
        return replace(self, dominant=round(keep - contextual, 6), contextual=contextual, flops=None)

    def _contextual(self, evidence: Evidence, groups: Groups) -> tuple[int, ...]:
        """Contextual rows of every view."""
        if self.share != "image" and evidence.layout.views is not None:
            return tuple(map(min, map(self.merged_into, groups.bases), groups.keep))
        amounts = tuple(
            tuple(self.merged_into(self.base(*pair)) for pair in zip(*both, strict=True))
            for both in zip(evidence.found, evidence.layout.counts, strict=True)
        )
        return groups.split(amounts, groups.keep)

    def choose(self, stage: Stage, evidence: Evidence) -> Choice:
        vision = seen(self.name, evidence)
        groups = self.groups(evidence, vision)
        contextual = self._contextual(evidence, groups)
        dominant = tuple(k - c for k, c in zip(groups.keep, contextual, strict=True))
        cls = tuple(int(vision.cls_TV is not None and n > 0) for n in dominant)
        patches = tuple(n - x for n, x in zip(dominant, cls, strict=True))
        dominant_TP = groups.top(groups.of(vision, lambda v: v.attention_BN), patches)
        rest_TP = groups.real_TP & ~dominant_TP
        targets_TP = spaced(groups, rest_TP, patches, contextual)
        merged_TP = rest_TP & ~targets_TP
        # What CLS turns into lives where its view's first dropped patch was.
        homes_T1 = merged_TP.int().argmax(1, keepdim=True)
        cls_TP = torch.zeros_like(rest_TP).scatter(1, homes_T1, groups.column(cls) > 0)
        part = _Parts(cls, homes_T1, contextual, targets_TP, merged_TP, dominant_TP)
        lives_TP = dominant_TP | targets_TP | cls_TP
        groups = groups.seated(evidence, lives_TP)
        rewrite = _rewrite(evidence, vision, groups, part)
        keep_BN = groups.put(lives_TP, evidence.alive_BN)
        order_BN = _order(evidence, groups, cls_TP, targets_TP)
        return settled(stage, evidence, keep_BN, groups.totals(evidence, groups.keep), rewrite, order_BN)


@dataclass(frozen=True, eq=False)
class _Parts:
    """What is made anew of every view.

    Attributes:
        cls: 1 where its CLS row is kept, else 0.
        cls_T1: Where that lives.
        contextual: How many contextual rows.
        targets_TP: Where these live.
        merged_TP: Patches that are merged into them.
        dominant_TP: Patches that live on as they are.
    """

    cls: tuple[int, ...]
    cls_T1: torch.Tensor
    contextual: tuple[int, ...]
    targets_TP: torch.Tensor
    merged_TP: torch.Tensor
    dominant_TP: torch.Tensor


def _rewrite(evidence: Evidence, vision: Vision, groups: Groups, part: _Parts) -> Rewrite | None:
    """Contents of the CLS rows and the contextual rows."""
    features_TPV = groups.of(vision, lambda v: v.features_BNV)
    keys_TPW = wide(groups.of(vision, lambda v: v.keys_BNV)).unflatten(-1, (vision.heads, -1)).mean(-2)
    most = max(part.contextual, default=0)
    homes_TK = part.targets_TP.int().argsort(dim=1, descending=True, stable=True)[:, :most]
    sources_TKP = assigned(keys_TPW, homes_TK, groups.column(part.contextual), part.merged_TP)
    new_TKV = mixed(sources_TKP, features_TPV)
    used_TK = torch.arange(most) < torch.tensor(part.contextual, dtype=torch.long)[:, None]
    if vision.cls_TV is not None:
        cls_T1V = vision.cls_TV[groups.column(groups.number)].to(new_TKV.dtype)
        new_TKV = torch.cat((cls_T1V, new_TKV), dim=1)
        homes_TK = torch.cat((part.cls_T1, homes_TK), dim=1)
        # The source trace knows patches alone: CLS comes of none.
        sources_TKP = torch.cat(
            (sources_TKP.new_zeros(*features_TPV[:, :1, 0].shape, sources_TKP.shape[2]), sources_TKP), dim=1
        )
        used_TK = torch.cat((torch.tensor(part.cls, dtype=torch.bool)[:, None], used_TK), dim=1)
    made = made_seen(vision, groups, part.dominant_TP)
    if made is not None:
        homes_TK, used_TK = (torch.cat(pair, dim=1) for pair in ((homes_TK, made[0]), (used_TK, made[1])))
        new_TKV = torch.cat((new_TKV, made[2]), dim=1)
        none_TKP = sources_TKP.new_zeros(*made[0].shape, sources_TKP.shape[2])
        sources_TKP = torch.cat((sources_TKP, none_TKP), dim=1)
    return rewrite_of(evidence, groups, homes_TK, used_TK, vision.project(new_TKV), sources_TKP)


def spaced(
    groups: Groups, rest_TP: torch.Tensor, taken: tuple[int, ...], wanted: tuple[int, ...]
) -> torch.Tensor:
    """Boolean (T, P): evenly spaced members of what is left of every group, from its first on.

    Args:
        groups: The groups.
        rest_TP: Members that are left.
        taken: How many are not.
        wanted: How many to find.
    """
    steps = tuple(
        max(1, (size - t) // w) if w else 1 for size, t, w in zip(groups.sizes, taken, wanted, strict=True)
    )
    place_TP, step_T1 = rest_TP.cumsum(1) - 1, groups.column(steps)
    return rest_TP & (place_TP % step_T1 == 0) & (place_TP // step_T1 < groups.column(wanted))


def assigned(
    keys_TPW: torch.Tensor, targets_TC: torch.Tensor, counts_T1: torch.Tensor, merged_TP: torch.Tensor
) -> torch.Tensor:
    """Weights (T, C, P) of patches in contextual rows: the target plus the mean of what is most like it.

    Args:
        keys_TPW: Keys that are compared by their cosine.
        targets_TC: Places of the targets.
        counts_T1: How many of these count.
        merged_TP: Patches that are merged, each into the first of the targets that are most like it.
    """
    unit_TPW = unit(keys_TPW)
    weights_TCP = one_hot(targets_TC, keys_TPW.shape[1]).to(unit_TPW.dtype)
    if not targets_TC.shape[1]:
        return weights_TCP
    unit_TCW = unit_TPW.gather(1, targets_TC[..., None].expand(-1, -1, unit_TPW.shape[2]))
    counted_TC = torch.arange(targets_TC.shape[1], device=targets_TC.device) < counts_T1
    like_TPC = (unit_TPW @ unit_TCW.transpose(1, 2)).masked_fill(~counted_TC[:, None], -2)
    joins_TCP = torch.zeros_like(weights_TCP)
    joins_TCP.scatter_(1, like_TPC.argmax(2)[:, None], merged_TP[:, None].to(joins_TCP.dtype))
    return weights_TCP + joins_TCP / joins_TCP.sum(2, keepdim=True).clamp(min=1)


def _order(
    evidence: Evidence, groups: Groups, cls_TP: torch.Tensor, targets_TP: torch.Tensor
) -> torch.Tensor:
    """Integers (B, N) that put the rows of an image in the official order, see the class."""
    owners = list(zip(groups.sample, groups.image, strict=True))
    later_T1 = groups.column(tuple(int(owner in owners[:t]) for t, owner in enumerate(owners)))
    # Of the first view: CLS 0, dominant 1, contextual 2; of all others: dominant 3, CLS 4, contextual 5.
    part_TP = torch.where(cls_TP, 4 * later_T1, 1 + 2 * later_T1)
    part_TP = torch.where(targets_TP, 2 + 3 * later_T1, part_TP)
    # Dominant patches of the other views are in raster order together, everything else goes view by view.
    view_TP = groups.column(tuple(range(len(owners)))) * (part_TP > 3)
    order_TP = (part_TP * max(len(owners), 1) + view_TP) * groups.span + groups.order_TP
    return groups.put(order_TP, evidence.alive_BN)
