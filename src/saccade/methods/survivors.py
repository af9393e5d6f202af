"""What becomes of the rows that a reducer before the decoder keeps: contents, places, order.

Shape letters: B batch, N rows, T groups, P members of a group, K new rows of a group, S rewritten rows of a
sample, D decoder width.
"""

from __future__ import annotations

import torch
from torch.nn.functional import one_hot, pad
from torch.nn.utils.rnn import pad_sequence

from saccade.core.precision import narrowed, wide
from saccade.core.select import top
from saccade.core.stages import Choice, Counts, Evidence, Rewrite, Stage, Vision
from saccade.methods.towerwise import Groups, loses, losing_rows


def mixed(weights: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Weighted sums of rows, (..., K, P) by (..., P, V), computed in float32 at least."""
    x_wide = wide(x)
    return narrowed(weights.to(x_wide.dtype) @ x_wide, x.dtype)


def rewrite_of(
    evidence: Evidence,
    groups: Groups,
    homes_TK: torch.Tensor,
    used_TK: torch.Tensor,
    states_TKD: torch.Tensor,
    weights_TKP: torch.Tensor,
) -> Rewrite | None:
    """New contents of rows, from tables by group to row coordinates; None where there are none.

    Args:
        evidence: What the decision was given.
        groups: The groups, T of them.
        homes_TK: In which member's place each new content lives.
        used_TK: Which entries of the table count; on the host.
        states_TKD: New contents.
        weights_TKP: Weights of the group's members in them.
    """
    if not bool(used_TK.any()):
        return None
    (batch, rows), device = evidence.alive_BN.shape, homes_TK.device
    sample_T1 = torch.tensor(groups.sample)[:, None]
    lists = [(used_TK & (sample_T1 == b)).flatten().nonzero()[:, 0] for b in range(batch)]
    entry_BS = pad_sequence(lists, batch_first=True, padding_value=-1).to(device)
    there_BS, entry_BS = entry_BS >= 0, entry_BS.clamp(min=0)
    group_BS = entry_BS // used_TK.shape[1]
    first_B1 = torch.arange(batch, device=device)[:, None] * rows
    # Column N takes what pads a group or a sample, and patches that are no rows.
    padding_BSP = ~groups.own_TP[group_BS] | ~there_BS[..., None]
    columns_BSP = (groups.rows_TP[group_BS] - first_B1[..., None]).masked_fill(padding_BSP, rows)
    weights_TKP = weights_TKP.detach()
    sources_BSN = weights_TKP.new_zeros(*entry_BS.shape, rows + 1)
    sources_BSN.scatter_(2, columns_BSP, weights_TKP.flatten(0, 1)[entry_BS])
    homes_BS = groups.homes_TP.gather(1, homes_TK).flatten()[entry_BS] - first_B1
    states_BSD = states_TKD.flatten(0, 1)[entry_BS].to(evidence.hidden_BND.dtype)
    return Rewrite(homes_BS.masked_fill(~there_BS, -1), states_BSD, sources_BSN[..., :-1])


def made_seen(
    vision: Vision, groups: Groups, lives_TP: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None:
    """Patches without a row that live on as they are, as new contents of the rows they were given.

    Waits for the device, where there may be any.

    Args:
        vision: What the tower knows.
        groups: The groups.
        lives_TP: Members that live on as they are.

    Returns:
        Places of these members (T, K), which entries count (on the host), and their features (T, K, V); None
        where there are none.
    """
    if groups.spare is None:
        return None
    wanted_TP = (lives_TP & groups.spare.is_TP).cpu()
    most = int(wanted_TP.sum(1).max()) if len(wanted_TP) else 0
    if not most:
        return None
    homes_TK = wanted_TP.int().argsort(dim=1, descending=True, stable=True)[:, :most]
    used_TK = torch.arange(most) < wanted_TP.sum(1, keepdim=True)
    homes_TK = homes_TK.to(lives_TP.device)
    features_TPV = groups.of(vision, lambda v: v.features_BNV)
    return (
        homes_TK,
        used_TK,
        features_TPV.gather(1, homes_TK[..., None].expand(-1, -1, features_TPV.shape[2])),
    )


def kept_as_they_are(
    stage: Stage, evidence: Evidence, vision: Vision, groups: Groups, kept_TP: torch.Tensor
) -> Choice:
    """The choice of members that live on as they are, patches without a row among them."""
    groups = groups.seated(evidence, kept_TP)
    keep_BN, totals = groups.put(kept_TP, evidence.alive_BN), groups.totals(evidence, groups.keep)
    made = made_seen(vision, groups, kept_TP)
    if made is None:
        return settled(stage, evidence, keep_BN, totals)
    homes_TK, used_TK, features_TKV = made
    weights_TKP = wide(features_TKV[:0]).new_zeros(*homes_TK.shape, kept_TP.shape[1])
    states_TKD = vision.project(features_TKV)
    rewrite = rewrite_of(evidence, groups, homes_TK, used_TK, states_TKD, weights_TKP)
    order_BN = groups.put(groups.order_TP, evidence.alive_BN)
    return settled(stage, evidence, keep_BN, totals, rewrite, order_BN)


def settled(
    stage: Stage,
    evidence: Evidence,
    keep_BN: torch.Tensor,
    totals: Counts,
    rewrite: Rewrite | None = None,
    order_BN: torch.Tensor | None = None,
) -> Choice:
    """The choice, with survivors in the authors' order where positions close up.

    Rows that keep their positions keep their places. Else the survivors of an image move to its first
    candidates, so that row order is the authors' order.

    Args:
        stage: The stage.
        evidence: What the decision was given.
        keep_BN: Rows in which something lives on, of images that lose some.
        totals: Rows every image keeps, those that lose nothing included.
        rewrite: New contents of some of those rows.
        order_BN: Authors' order inside an image, ascending integers from 0; row order if None.
    """
    losing_BN = losing_rows(evidence)
    whole_BN = evidence.alive_BN & ~losing_BN
    counts = None if totals == evidence.keep else totals
    if order_BN is None or stage.compact == "never":
        return Choice(keep_BN | whole_BN, counts, rewrite)
    level_BN = torch.zeros(keep_BN.shape, device=keep_BN.device)
    seats_BN = top(level_BN, losing_BN, evidence.image_BN, totals)
    # Images in order, inside them the authors' order; what does not survive comes last.
    key_BN = evidence.image_BN * (order_BN.max() + 1) + order_BN
    key_BN = key_BN.masked_fill(~keep_BN, torch.iinfo(torch.long).max)
    both = zip(totals, loses(evidence), strict=True)
    moved = [sum(n * lost for n, lost in zip(*sample, strict=True)) for sample in both]
    from_BS = key_BN.argsort(dim=1, stable=True)[:, : max(moved)]
    to_BS = seats_BN.int().argsort(dim=1, descending=True, stable=True)[:, : max(moved)]
    there_BS = (
        torch.arange(max(moved), device=to_BS.device) < torch.tensor(moved, device=to_BS.device)[:, None]
    )
    states_BSD, sources_BSN = _contents(evidence.hidden_BND, rewrite, from_BS)
    there_BS1 = there_BS[..., None]
    moves = Rewrite(to_BS.masked_fill(~there_BS, -1), states_BSD * there_BS1, sources_BSN * there_BS1)
    return Choice(seats_BN | whole_BN, counts, moves)


def _contents(
    hidden_BND: torch.Tensor, rewrite: Rewrite | None, rows_BS: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """What some rows hold after a rewrite, and what they are made of."""
    batch, rows, width = hidden_BND.shape
    sources_BSN = one_hot(rows_BS, rows).to(torch.float32 if rewrite is None else rewrite.sources_BSN.dtype)
    if rewrite is not None:
        # Row N takes the padding of the rewrite.
        homes_BW = rewrite.rows_BS.masked_fill(rewrite.rows_BS < 0, rows)
        homes_BWD = homes_BW[..., None].expand_as(rewrite.states_BSD)
        hidden_BND = pad(hidden_BND, (0, 0, 0, 1)).scatter(1, homes_BWD, rewrite.states_BSD)
        numbers_BW = torch.arange(homes_BW.shape[1], device=rows_BS.device).expand_as(homes_BW)
        number_BN = torch.full((batch, rows + 1), -1, device=rows_BS.device).scatter(1, homes_BW, numbers_BW)
        number_BS1 = number_BN.gather(1, rows_BS)[..., None]
        new_BSN = rewrite.sources_BSN.gather(1, number_BS1.clamp(min=0).expand(-1, -1, rows))
        sources_BSN = torch.where(number_BS1 >= 0, new_BSN, sources_BSN)
    return hidden_BND.gather(1, rows_BS[..., None].expand(-1, -1, width)), sources_BSN
