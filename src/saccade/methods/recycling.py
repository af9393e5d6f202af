"""Pruned rows made into a few clusters (SparseVLM).

Shape letters: B batch, N rows, I images of a sample, G images of the batch, Q recycled rows, C clusters,
M slots, D hidden.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from saccade.core.cluster import density_peaks
from saccade.core.precision import wide
from saccade.core.stages import Counts, Evidence, Rewrite


def cluster(
    evidence: Evidence,
    again_BN: torch.Tensor,
    slot_BN: torch.Tensor,
    taken: Counts,
    clusters: Counts,
    seed: int,
) -> Clusters:
    """Clusters rows of every image.

    Args:
        evidence: Where and what the rows are.
        again_BN: The rows to cluster.
        slot_BN: Place of each among those of its image, from 0.
        taken: How many of every image.
        clusters: Clusters to make of them.
        seed: Of the noise that parts equal densities; it belongs to a row's place in its image.
    """
    device, batch = again_BN.device, len(again_BN)
    images = max(map(len, taken))
    table_BIQ, real_BIQ = table(again_BN, evidence.image_BN, slot_BN, images, max(map(max_, taken)))
    hidden_BND = evidence.hidden_BND
    points_BIQD = wide(_rows(hidden_BND, table_BIQ))
    # numpy's stream does not depend on how much is drawn, so a batch equals its singles.
    luck = torch.from_numpy(np.random.default_rng(seed).random(evidence.layout.rows))
    luck_BN = luck[evidence.layout.place_BN.clamp(min=0)].to(device, non_blocking=True)
    clusters_BI = torch.tensor([[*sample, *[0] * (images - len(sample))] for sample in clusters])
    clusters_BI = clusters_BI.to(device, non_blocking=True)
    most = max(map(max_, clusters))
    centres_GC, label_GQ = density_peaks(
        points_BIQD.detach().flatten(0, 1),
        real_BIQ.flatten(0, 1),
        clusters_BI.flatten(),
        luck_BN.gather(1, table_BIQ.flatten(1)).view(batch * images, -1),
        most,
    )
    member_GCQ = label_GQ[:, None] == torch.arange(most, device=device)[:, None]
    share_GCQ = member_GCQ.to(points_BIQD.dtype) / member_GCQ.sum(-1, keepdim=True).clamp(min=1)
    states_BICD = (share_GCQ @ points_BIQD.flatten(0, 1)).unflatten(0, (batch, images))
    share_BICQ = share_GCQ.unflatten(0, (batch, images))
    sources_BICN = share_BICQ.new_zeros(batch, images, most, again_BN.shape[1]).scatter_add_(
        3, table_BIQ[:, :, None].expand(-1, -1, most, -1), share_BICQ
    )
    centre_BIC = table_BIQ.gather(2, centres_GC.unflatten(0, (batch, images)))
    real_BIC = torch.arange(most, device=device) < clusters_BI[..., None]
    rewrite = Rewrite(
        centre_BIC.masked_fill(~real_BIC, -1).flatten(1),
        states_BICD.flatten(1, 2).to(hidden_BND.dtype),
        sources_BICN.flatten(1, 2),
    )
    # Column N takes what pads an image with fewer clusters.
    rows = again_BN.shape[1]
    number_BN = torch.full((batch, rows + 1), -1, device=device).scatter(
        1,
        centre_BIC.masked_fill(~real_BIC, rows).flatten(1),
        torch.arange(most, device=device).expand_as(centre_BIC).flatten(1),
    )
    return Clusters(number_BN[:, :-1], rewrite)


@dataclass(frozen=True, eq=False)
class Clusters:
    """Clusters of some rows, in the rows of their centres.

    Attributes:
        number_BN: Which cluster the row is the centre of, 0 for the strongest of its image; -1 elsewhere.
        rewrite: Their contents, plain means.
    """

    number_BN: torch.Tensor
    rewrite: Rewrite


def table(
    mask_BN: torch.Tensor, image_BN: torch.Tensor, slot_BN: torch.Tensor, images: int, slots: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Row numbers by image and slot, (B, images, slots), and which slots are taken; row 0 in the others."""
    rows = torch.arange(mask_BN.shape[1], device=mask_BN.device).expand_as(slot_BN)
    taken_BN = mask_BN & (slot_BN < slots)
    at_BN = torch.where(taken_BN, image_BN * slots + slot_BN, images * slots)
    empty = torch.full((len(mask_BN), images * slots + 1), -1, device=mask_BN.device)
    found = empty.scatter(1, at_BN, rows)[:, :-1].unflatten(1, (images, slots))
    return found.clamp(min=0), found >= 0


def max_(sample: tuple[int, ...]) -> int:
    """The largest count of a sample, 0 where it has no image."""
    return max(sample, default=0)


def _rows(x_BND: torch.Tensor, index_BIM: torch.Tensor) -> torch.Tensor:
    """Some rows, by image: (B, I, M, D)."""
    flat = index_BIM.flatten(1)[..., None].expand(-1, -1, x_BND.shape[-1])
    found: torch.Tensor = x_BND.gather(1, flat).unflatten(1, index_BIM.shape[1:])
    return found
