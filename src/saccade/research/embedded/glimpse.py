"""Teaching the tower's CLS row to look at what is not background.

In CLIP the CLS row attends to salient patches, and methods such as VisionZip and FasterVLM rank patches by
it. Glance's tower has one layer whose output nothing uses, so its queries and keys can learn to do the same
when everything else is finished (stage 3): no feature, and no answer of the dense model, changes by it.
Gaze's tower mixes patches, and the CLS rows of its last two layers are taught along with the rest.

Shape letters: B images, P patches, V tower width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from saccade.glance.model import Llava
from saccade.glance.tokenizer import PIXEL_MEAN, PIXEL_STD
from saccade.glance.vocabulary import HEAD_INDEX
from saccade.research.embedded.data import Batches, loader

BESIDE = 0.08
"""Worth of a patch of a thing beside that of the one in its 2 x 2 that the CLS row should look at."""
BACKGROUND_STD = 14.0
"""Patches whose pixels (0 to 255) spread less than this are background: noise, no drawing."""


def drawn(pixels_BHWC: torch.Tensor, patch: int) -> torch.Tensor:
    """Boolean (B, P): patches in which something is drawn."""
    cut = pixels_BHWC.float().unfold(1, patch, patch).unfold(2, patch, patch)
    return cut.flatten(4).std(-1).amax(-1).flatten(1) > BACKGROUND_STD


def cls_attention(model: Llava, pixels_BHWC: torch.Tensor) -> torch.Tensor:
    """Logarithm of the CLS row's attention over the patches in the tower's first layer, (B, P)."""
    tower = model.model.vision_tower
    images = (pixels_BHWC.permute(0, 3, 1, 2).float() / 255.0 - PIXEL_MEAN) / PIXEL_STD
    return attention_of_cls(tower.encoder.layers[0], tower.pre_layrnorm(tower.embeddings(images)))


def attention_of_cls(layer: nn.Module, states: torch.Tensor) -> torch.Tensor:
    """Logarithm of the CLS row's attention over the patches, mean over heads, (B, P).

    Args:
        layer: A layer of the tower.
        states: What enters it.
    """
    states, attn = layer.layer_norm1(states), layer.self_attn

    def heads(x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (-1, attn.head_dim)).transpose(1, 2)

    scores = heads(attn.q_proj(states[:, :1])) @ heads(attn.k_proj(states)).transpose(2, 3)
    return (scores * attn.scale).softmax(-1).mean(1)[:, 0, 1:].clamp_min(1e-12).log()


def worth_looking(labels: torch.Tensor, sparse: bool = False) -> torch.Tensor:
    """Where the CLS row should look, (B, P), summing to 1: at things, and most at their middle.

    So that the few most attended patches are of many things, not all of one.

    Args:
        labels: Patch labels of square pictures, batch x patches x heads.
        sparse: Most at one patch of every 2 x 2 instead, so that few patches are of every part of a thing.
    """
    content = labels[..., HEAD_INDEX["content"]]
    side = round(content.shape[1] ** 0.5)
    thing = (content > 0).float().view(-1, 1, side, side)
    if sparse:
        worth = torch.full_like(thing, BESIDE)
        worth[..., ::2, ::2] += 1.0
    else:
        worth = F.avg_pool2d(thing, 3, stride=1, padding=1).square()
    weight = (thing * worth + 1e-3).flatten(1)
    return weight / weight.sum(1, keepdim=True)


def looking_loss(
    layer: nn.Module, states: torch.Tensor, labels: torch.Tensor, sparse: bool = False
) -> torch.Tensor:
    """Divergence of the CLS row's attention from where it should look."""
    return F.kl_div(attention_of_cls(layer, states), worth_looking(labels, sparse), reduction="batchmean")


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
            pixels = batch["pixels"].to(model.device)
            target = drawn(pixels, patch).float()
            target = target / target.sum(1, keepdim=True).clamp_min(1)
            loss = F.kl_div(cls_attention(model, pixels), target, reduction="batchmean")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    finally:
        for parameter in model.parameters():
            parameter.requires_grad_(held[id(parameter)])
    return losses
