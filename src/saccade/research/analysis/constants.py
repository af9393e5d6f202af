"""Spectral norms and gains of a model's layers: what every bound is made of.

Shape letters: D hidden width, H heads, G key/value heads, W head width, O outputs, I inputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from saccade.families import Family
from saccade.research.analysis.bounds import SLOPES
from saccade.research.analysis.spectral import spectral_norm


@dataclass(frozen=True)
class Gain:
    """An RMS norm.

    Attributes:
        largest: Largest absolute gain of a channel.
        epsilon: What is added to the mean square.
    """

    largest: float
    epsilon: float

    def rms(self, states_ND: torch.Tensor) -> torch.Tensor:
        """Root mean square (N,) of rows as the norm takes it, epsilon included."""
        return (states_ND.double().square().mean(-1) + self.epsilon).sqrt()


@dataclass(frozen=True)
class LayerConstants:
    """Spectral norms of one decoder layer.

    Attributes:
        query: Of the whole query projection; likewise ``key``, ``value``, ``output``, ``gate``, ``up`` and
            ``down``.
        query_H: Of every head's query weights; likewise ``key_G`` and ``value_G``.
        lifted_H: Query weights with their bias as a further column, which is what sizes hang on; likewise
            ``lifted_key_G`` and ``lifted_value_G``. The same as without where there is no bias.
        biased: Whether there is a bias, so that states count with a further 1.
        input_gain: The norm before the attention.
        ffn_gain: The norm before the FFN.
        width: Head width.
        slope: Largest slope of the FFN's activation.
    """

    query: float
    key: float
    value: float
    output: float
    gate: float
    up: float
    down: float
    query_H: tuple[float, ...]
    key_G: tuple[float, ...]
    value_G: tuple[float, ...]
    lifted_H: tuple[float, ...]
    lifted_key_G: tuple[float, ...]
    lifted_value_G: tuple[float, ...]
    biased: bool
    input_gain: Gain
    ffn_gain: Gain
    width: int
    slope: float


@dataclass(frozen=True)
class Constants:
    """Constants of a model.

    Attributes:
        layers: Of every decoder layer.
        final_gain: The norm after the last layer.
        head: Spectral norm of the language-model head.
    """

    layers: tuple[LayerConstants, ...]
    final_gain: Gain
    head: float


@torch.no_grad()
def constants(family: Family, model: nn.Module) -> Constants:
    """Constants of a model; takes one power iteration per weight matrix and head.

    Raises:
        ValueError: If weights cannot be read as they act, or the activation's slope is not known.
    """
    parts = family.parts(model)
    config: Any = parts.decoder.config
    activation = family.activation(config)
    if activation not in SLOPES:
        known = ", ".join(sorted(SLOPES))
        raise ValueError(f"no bound is known for a FFN gated by {activation!r}; known: {known}")
    head: Any = parts.head
    return Constants(
        tuple(_layer(family, layer, SLOPES[activation]) for layer in parts.layers),
        gain(family, parts.norm),
        float(spectral_norm(head.weight)),
    )


def gain(family: Family, norm: nn.Module) -> Gain:
    """An RMS norm's constants."""
    weight_D, epsilon = family.norm_gain(norm)
    return Gain(float(weight_D.detach().float().abs().max()), epsilon)


def _layer(family: Family, layer: Any, slope: float) -> LayerConstants:
    linears = family.linears(layer)
    for name in ("output", "gate", "up", "down"):
        if linears[name][1] is not None:
            raise ValueError(f"the bounds are of layers without a bias in their {name} projection")
    width = int(layer.self_attn.head_dim)
    whole = {name: float(spectral_norm(weight)) for name, (weight, _) in linears.items()}
    plain, lifted = {}, {}
    for name in ("query", "key", "value"):
        weight_OI, bias_O = linears[name]
        plain[name] = _by_head(weight_OI, width)
        lifted[name] = plain[name]
        if bias_O is not None:
            lifted[name] = _by_head(torch.cat((weight_OI, bias_O[:, None]), dim=1), width)
    input_norm, ffn_norm = family.norms(layer)
    return LayerConstants(
        **whole,
        query_H=plain["query"],
        key_G=plain["key"],
        value_G=plain["value"],
        lifted_H=lifted["query"],
        lifted_key_G=lifted["key"],
        lifted_value_G=lifted["value"],
        biased=any(linears[name][1] is not None for name in ("query", "key", "value")),
        input_gain=gain(family, input_norm),
        ffn_gain=gain(family, ffn_norm),
        width=width,
        slope=slope,
    )


def _by_head(weight_OI: torch.Tensor, width: int) -> tuple[float, ...]:
    return tuple(spectral_norm(weight_OI.unflatten(0, (-1, width))).tolist())
