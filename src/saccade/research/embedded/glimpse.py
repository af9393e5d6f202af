"""Stage 3 of training: the CLS row of Glance's vision tower learns to look at what is not background.

In CLIP the CLS row attends to salient patches, and methods such as VisionZip and FasterVLM rank patches by
it. Glance's tower has one layer whose output nothing uses, so its queries and keys can learn to do the same
when everything else is finished: no feature, and no answer of the dense model, changes by it.

Shape letters: B images, P patches, V tower width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from saccade.glance.model import Llava
from saccade.glance.tokenizer import PIXEL_MEAN, PIXEL_STD
from saccade.research.embedded.data import Batches, loader

BACKGROUND_STD = 14.0
"""Patches whose pixels (0 to 255) spread less than this are background: noise, no drawing."""


def drawn(pixels_BHWC: torch.Tensor, patch: int) -> torch.Tensor:
    """Boolean (B, P): patches in which something is drawn."""
    cut = pixels_BHWC.float().unfold(1, patch, patch).unfold(2, patch, patch)
    return cut.flatten(4).std(-1).amax(-1).flatten(1) > BACKGROUND_STD


def cls_attention(model: Llava, pixels_BHWC: torch.Tensor) -> torch.Tensor:
    """Logarithm of the CLS row's attention over the patches, mean over heads, (B, P)."""
    tower = model.model.vision_tower
    images = (pixels_BHWC.permute(0, 3, 1, 2).float() / 255.0 - PIXEL_MEAN) / PIXEL_STD
    layer = tower.encoder.layers[0]
    states = layer.layer_norm1(tower.pre_layrnorm(tower.embeddings(images)))
    attn = layer.self_attn

    def heads(x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (-1, attn.head_dim)).transpose(1, 2)

    scores = heads(attn.q_proj(states[:, :1])) @ heads(attn.k_proj(states)).transpose(2, 3)
    return (scores * attn.scale).softmax(-1).mean(1)[:, 0, 1:].clamp_min(1e-12).log()


def teach_to_glimpse(
    model: Llava, batches: Batches, steps: int, seed: int = 0, patch: int = 8
) -> list[float]:
    """Trains the queries and keys of the tower's only layer, in place; returns the losses.

    Args:
        model: The model, otherwise finished.
        batches: Where images come from.
        steps: Steps of Adam; the learning rate falls to zero along a cosine.
        seed: Of the first queries and keys.
        patch: Side of a patch in pixels.
    """
    layer = model.model.vision_tower.encoder.layers[0]
    attn, draw = layer.self_attn, torch.Generator().manual_seed(seed)
    with torch.no_grad():
        layer.layer_norm1.weight.fill_(1.0)
        for linear in (attn.q_proj, attn.k_proj):
            nn.init.normal_(linear.weight, std=linear.in_features**-0.5, generator=draw)
    learned = [*attn.q_proj.parameters(), *attn.k_proj.parameters(), *layer.layer_norm1.parameters()]
    held = {id(p): p.requires_grad for p in model.parameters()}
    for parameter in model.parameters():
        parameter.requires_grad_(any(parameter is p for p in learned))
    optimizer = torch.optim.Adam(learned, lr=3e-3)
    losses = []
    try:
        for step, batch in zip(range(steps), loader(batches, 0, workers=0), strict=False):
            optimizer.param_groups[0]["lr"] = 3e-3 * 0.5 * (1 + math.cos(math.pi * step / steps))
            target = drawn(batch["pixels"], patch).float()
            target = target / target.sum(1, keepdim=True).clamp_min(1)
            loss = F.kl_div(cls_attention(model, batch["pixels"]), target, reduction="batchmean")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    finally:
        for parameter in model.parameters():
            parameter.requires_grad_(held[id(parameter)])
    return losses
