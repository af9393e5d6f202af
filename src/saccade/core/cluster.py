"""Density-peak clustering of points in groups of different sizes, without waiting for the device (pure).

SparseVLM (arXiv 2410.04417) recycles pruned rows with it: a centre is a point that is dense and far from any
denser one (Rodriguez and Laio, Science 2014, with the density of the k nearest neighbours).

Shape letters: G groups, P points of the largest group, D width, C centres of the group with most.
"""

from __future__ import annotations

import math

import torch

NOISE = 1e-6
"""How much luck adds to a density: enough to part points that are each other's nearest."""


def density_peaks(
    points_GPD: torch.Tensor,
    real_GP: torch.Tensor,
    clusters_G: torch.Tensor,
    luck_GP: torch.Tensor,
    most: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Clusters every group of points.

    With distances ``|x_i - x_j| / sqrt(D)``, the density of a point is ``exp(-m) + 1e-6 luck``, with m the
    mean of its squared distances to as many nearest points as there are clusters, itself included; its
    separation is the distance to the nearest denser point, or the largest of the group where there is none.
    Centres are the points with the largest products of both; every other point goes to the nearest centre.

    Args:
        points_GPD: Points.
        real_GP: False where ``P`` pads a group.
        clusters_G: Clusters of each group, at most its points.
        luck_GP: Numbers from 0 to 1, to part equal densities.
        most: The largest of ``clusters_G``.

    Returns:
        centres_GC: Point at the centre of each cluster, strongest first; 0 beyond a group's clusters.
        label_GP: Cluster of each point; -1 at padding and in groups without clusters.
    """
    points, width = points_GPD.shape[1:]
    if not points or not most:
        return torch.zeros_like(real_GP[:, :1], dtype=torch.long).expand(-1, most), real_GP.long() * 0 - 1
    far_GPP = distances(points_GPD) / math.sqrt(width)
    both_GPP = real_GP[:, :, None] & real_GP[:, None, :]
    apart_GPP = far_GPP.masked_fill(~both_GPP, float("inf"))

    near_GPP = apart_GPP.square().sort(dim=-1).values.cumsum(-1)
    last_GP1 = (clusters_G - 1).clamp(min=0)[:, None, None].expand(-1, points, 1)
    mean_GP = near_GPP.gather(-1, last_GP1)[..., 0] / clusters_G.clamp(min=1)[:, None]
    density_GP = (torch.exp(-mean_GP) + NOISE * luck_GP.double()).masked_fill(~real_GP, -1)
    denser_GPP = density_GP[:, None, :] > density_GP[:, :, None]
    furthest_G = far_GPP.masked_fill(~both_GPP, 0).flatten(1).max(1).values
    separation_GP = apart_GPP.masked_fill(~denser_GPP, float("inf")).min(-1).values
    separation_GP = torch.minimum(separation_GP, furthest_G[:, None])
    peak_GP = (density_GP * separation_GP).masked_fill(~real_GP, -1)

    centres_GC = peak_GP.argsort(dim=1, descending=True, stable=True)[:, :most]
    is_centre_GC = torch.arange(most, device=clusters_G.device) < clusters_G[:, None]
    to_centre_GPC = apart_GPP.gather(2, centres_GC[:, None].expand(-1, points, -1))
    label_GP = to_centre_GPC.masked_fill(~is_centre_GC[:, None], float("inf")).argmin(-1)
    # A centre is in its own cluster, also where another lies on the same spot.
    spare = torch.cat([label_GP, label_GP[:, :1]], 1)
    own_GC = torch.arange(most, device=clusters_G.device).expand_as(centres_GC)
    label_GP = spare.scatter(1, torch.where(is_centre_GC, centres_GC, points), own_GC)[:, :points]
    label_GP = label_GP.masked_fill(~real_GP | (clusters_G < 1)[:, None], -1)
    return centres_GC.masked_fill(~is_centre_GC, 0), label_GP


def distances(points_GPD: torch.Tensor) -> torch.Tensor:
    """Euclidean distances (G, P, P) of the points of every group to each other, in float64.

    Double products keep the small distances between long vectors, which decide here.
    """
    x_GPD = points_GPD.double()
    x_GPD = x_GPD - x_GPD.mean(1, keepdim=True)
    square_GP = x_GPD.square().sum(-1)
    far_GPP = square_GP[:, :, None] + square_GP[:, None, :] - 2 * x_GPD @ x_GPD.transpose(1, 2)
    # Both ways the same, and nothing to itself, whatever rounding makes of them.
    far_GPP = (far_GPP + far_GPP.transpose(1, 2)) / 2
    own_PP = torch.eye(far_GPP.shape[1], dtype=torch.bool, device=far_GPP.device)
    return far_GPP.masked_fill(own_PP, 0).clamp(min=0).sqrt()
