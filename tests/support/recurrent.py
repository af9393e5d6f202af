"""Layers that mix rows through a state, in a slow account: the stock module on prompts that are shorter.

Shape letters: B batch, N rows, D hidden.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


def recurs(layer: Any) -> bool:
    """Whether a decoder layer has a recurrence in attention's place."""
    return not hasattr(layer, "self_attn")


def mixer_of(layer: Any) -> nn.Module:
    """The module of a decoder layer that lets its rows know of each other."""
    if not recurs(layer):
        return layer.self_attn
    return layer.conv if hasattr(layer, "conv") else layer.linear_attn


def ffn_of(layer: Any) -> nn.Module:
    """The module of a decoder layer that works row by row."""
    return layer.mlp if hasattr(layer, "mlp") else layer.feed_forward


def kept(output: Any, keep_BN1: torch.Tensor) -> Any:
    """What a module made with zeros at some rows; some experts lay the rows of all samples side by side."""
    if not isinstance(output, tuple):
        return output * keep_BN1
    flat = output[0].ndim < 3
    return (output[0] * (keep_BN1.flatten(0, 1) if flat else keep_BN1), *output[1:])


def last_norm(decoder: Any) -> nn.Module:
    """The norm after a decoder's last layer."""
    return decoder.norm if hasattr(decoder, "norm") else decoder.embedding_norm


class OnRows:
    """Lets a recurrent module run sample by sample on some rows alone, without a cache; others get 0."""

    def __init__(self, module: Any, enters: Callable[[], torch.Tensor]) -> None:
        """Puts it on.

        Args:
            module: The stock module.
            enters: Says which rows enter, boolean (B, N), while a forward is running.
        """
        self.module, self.enters, self.stock = module, enters, module.forward
        module.forward = self

    def __call__(self, hidden_states: torch.Tensor, **given: Any) -> torch.Tensor:
        out = torch.zeros_like(hidden_states)
        for b, enters_N in enumerate(self.enters().expand(hidden_states.shape[:2])):
            if bool(enters_N.any()):
                out[b, enters_N] = self.stock(hidden_states[b : b + 1, enters_N])[0]
        return out

    def remove(self) -> None:
        """Takes it off."""
        del self.module.forward
