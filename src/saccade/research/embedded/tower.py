"""The vision tower as training runs it, and how a model starts from a smaller one's weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from saccade.glance.model import Llava
from saccade.research.embedded.pointing import HEADS


def inherit(model: Llava, donor: Mapping[str, torch.Tensor], taught: Sequence[int] = ()) -> None:
    """Start from another model's weights, in place: of a smaller one from all that fit, its positions spread.

    Args:
        model: What starts.
        donor: The other model's weights.
        taught: Decoder layers, counted from 1, whose first heads will be taught anew where to look: their
            queries are made small, or heads that are sure of something else would hardly learn. A model of
            the same sizes keeps what it was taught.
    """
    mine = model.state_dict()
    if {name: tensor.shape for name, tensor in donor.items()} == {n: t.shape for n, t in mine.items()}:
        model.load_state_dict(donor)
        return
    for name, tensor in donor.items():
        if name.endswith("position_embedding.weight"):
            mine[name].copy_(torch.cat((tensor[:1], spread(tensor[1:], len(mine[name]) - 1))))
        elif "vision_tower.encoder" not in name and mine[name].shape == tensor.shape:
            mine[name].copy_(tensor)
    model.load_state_dict(mine)
    with torch.no_grad():
        for number in taught:
            attention = model.model.language_model.layers[number - 1].self_attn
            attention.q_proj.weight[: HEADS * attention.head_dim] *= 0.2


def spread(positions: torch.Tensor, patches: int) -> torch.Tensor:
    """Position embeddings of a square grid (rows x width), on a finer or a coarser one."""
    side, width = round(len(positions) ** 0.5), positions.shape[1]
    wanted = round(patches**0.5)
    grid = positions.T.reshape(1, width, side, side)
    if wanted < side:
        grid = F.avg_pool2d(grid, side // wanted)
    elif wanted > side:
        grid = F.interpolate(grid, size=(wanted, wanted), mode="bilinear", align_corners=False)
    return grid.reshape(width, -1).T


def tower_layers(model: Llava, shallow: bool = False) -> list[nn.Module]:
    """Layers of the tower in order; the last one is that which features do not pass.

    Args:
        model: The model.
        shallow: Whether the layer before the last is left out, so that features come one layer earlier.
    """
    layers = list(model.model.vision_tower.encoder.layers)
    return [*layers[:-2], layers[-1]] if shallow else layers


def make_shallow(model: Llava) -> None:
    """Takes the layer before the last out of the tower, in place."""
    model.model.vision_tower.encoder.layers = nn.ModuleList(tower_layers(model, shallow=True))
    model.config.vision_config.num_hidden_layers -= 1


def tower_states(model: Llava, pixels: torch.Tensor, shallow: bool = False) -> list[torch.Tensor]:
    """What enters each layer of the tower, CLS first, the last layer's input last: the features.

    As the stock tower computes them, without its unused last layer. Of pictures smaller than the model's,
    which only training knows, each patch has the mean of the positions that it covers.

    Args:
        model: The model.
        pixels: Normalised pictures, B x 3 x side x side.
        shallow: As in `tower_layers`.
    """
    tower = model.model.vision_tower
    embeddings = tower.embeddings
    patches = embeddings.patch_embedding(pixels).flatten(2).transpose(1, 2)
    positions = embeddings.position_embedding.weight
    if patches.shape[1] != len(positions) - 1:
        positions = torch.cat((positions[:1], spread(positions[1:], patches.shape[1])))
    rows = torch.cat((embeddings.class_embedding.expand(len(pixels), 1, -1), patches), dim=1)
    states = [tower.pre_layrnorm(rows + positions)]
    for layer in tower_layers(model, shallow)[:-1]:
        states.append(layer(states[-1], None))
    return states


def visual_rows(model: Llava, pixels: torch.Tensor) -> torch.Tensor:
    """Projected patches, as the stock `get_image_features` computes them but without the unused layer."""
    return model.model.multi_modal_projector(tower_states(model, pixels)[-1][:, 1:])
