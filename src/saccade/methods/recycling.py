"""Pruned rows made into a few clusters, and rows of an image packed together (SparseVLM).

Shape letters: B batch, N rows, I images of a sample, G images of the batch, Q recycled rows, C clusters,
M rows left of an image, D hidden.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from saccade.cluster import density_peaks
from saccade.select import ranks
from saccade.stages import Counts, Evidence, Rewrite


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
    points_BIQD = _rows(hidden_BND, table_BIQ).float()
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
    share_GCQ = member_GCQ.float() / member_GCQ.sum(-1, keepdim=True).clamp(min=1)
    states_BICD = (share_GCQ @ points_BIQD.flatten(0, 1)).unflatten(0, (batch, images))
    share_BICQ = share_GCQ.unflatten(0, (batch, images))
    sources_BICN = torch.zeros(batch, images, most, again_BN.shape[1], device=device).scatter_add_(
        3, table_BIQ[:, :, None].expand(-1, -1, most, -1), share_BICQ
    )
    centre_BIC = table_BIQ.gather(2, centres_GC.unflatten(0, (batch, images)))
    real_BIC = torch.arange(most, device=device) < clusters_BI[..., None]
    return Clusters(evidence, centre_BIC, real_BIC, states_BICD, sources_BICN)


@dataclass(frozen=True, eq=False)
class Clusters:
    """Clusters of every image, strongest first.

    Attributes:
        evidence: What they were made of.
        centre_BIC: Row of each centre.
        real_BIC: False where an image has fewer.
        states_BICD: Their means.
        sources_BICN: Which rows they are the means of.
    """

    evidence: Evidence
    centre_BIC: torch.Tensor
    real_BIC: torch.Tensor
    states_BICD: torch.Tensor
    sources_BICN: torch.Tensor

    def at_centres(self) -> torch.Tensor:
        """Rows (B, N) of the centres."""
        batch, rows = self.evidence.alive_BN.shape
        spare = self.evidence.alive_BN.new_zeros(batch, rows + 1)
        index = torch.where(self.real_BIC, self.centre_BIC, rows).flatten(1)
        at_BN: torch.Tensor = spare.scatter(1, index, True)[:, :-1]
        return at_BN

    def rewrite(self) -> Rewrite:
        """Clusters in the rows of their centres."""
        rows_BIC = torch.where(self.real_BIC, self.centre_BIC, -1)
        return Rewrite(rows_BIC.flatten(1), self.states_BICD.flatten(1, 2), self.sources_BICN.flatten(1, 2))

    def packed(self, kept_BN: torch.Tensor, stay: Counts) -> tuple[torch.Tensor, Rewrite]:
        """Kept rows and then clusters, in the first rows of every image that are alive.

        Args:
            kept_BN: Rows that are kept as they are.
            stay: How many of every image.

        Returns:
            Rows (B, N) that are alive, and what is in them.
        """
        alive_BN, image_BN = self.evidence.alive_BN, self.evidence.image_BN
        images, most = self.centre_BIC.shape[1:]
        longest = max(map(max_, stay)) + most
        flat_BN = torch.zeros_like(self.evidence.hidden_BND[..., 0], dtype=torch.float32)
        into_BIM, _ = table(alive_BN, image_BN, ranks(flat_BN, alive_BN, image_BN), images, longest)
        from_BIM, whole_BIM = table(kept_BN, image_BN, ranks(flat_BN, kept_BN, image_BN), images, longest)
        stay_BI1 = torch.tensor([[*sample, *[0] * (images - len(sample))] for sample in stay])[..., None]
        cluster_BIM = torch.arange(longest) - stay_BI1
        cluster_BIM = cluster_BIM.to(alive_BN.device, non_blocking=True)
        index_BIM = cluster_BIM.clamp(0, most - 1)
        made_BIM = (cluster_BIM >= 0) & (cluster_BIM < most) & self.real_BIC.gather(2, index_BIM)

        states_BIMD = _rows(self.evidence.hidden_BND, from_BIM)
        wide = index_BIM[..., None]
        means_BIMD = self.states_BICD.gather(2, wide.expand(-1, -1, -1, states_BIMD.shape[-1]))
        states_BIMD = torch.where(made_BIM[..., None], means_BIMD.to(states_BIMD.dtype), states_BIMD)
        one_BIMN = (from_BIM[..., None] == torch.arange(alive_BN.shape[1], device=alive_BN.device)).float()
        mixed_BIMN = self.sources_BICN.gather(2, wide.expand(-1, -1, -1, alive_BN.shape[1]))
        sources_BIMN = torch.where(made_BIM[..., None], mixed_BIMN, one_BIMN)

        left_BIM = whole_BIM | made_BIM
        rows = alive_BN.shape[1]
        spare = torch.zeros(len(alive_BN), rows + 1, dtype=torch.bool, device=alive_BN.device)
        packed_BN: torch.Tensor = spare.scatter(1, torch.where(left_BIM, into_BIM, rows).flatten(1), True)[
            :, :-1
        ]
        # Rows that stay where they are need no writing.
        moved_BIM = made_BIM | (whole_BIM & (into_BIM != from_BIM))
        rows_BIM = torch.where(moved_BIM, into_BIM, -1)
        return packed_BN, Rewrite(rows_BIM.flatten(1), states_BIMD.flatten(1, 2), sources_BIMN.flatten(1, 2))


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
