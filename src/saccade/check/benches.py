"""The model as it is checked: at its own number format, and as many first layers as fit in float32."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from saccade.check import reference
from saccade.check.distance import Distance
from saccade.check.finders import (
    bare,
    find_layers,
    least_depth,
    mixer_of,
    rows_of_pictures,
    visual_rows,
)
from saccade.check.prompts import Inputs, Prompts
from saccade.families import adopt, find

ROOM = 0.6
"""Share of the free memory that a float32 copy may take; the rest is for what runs on it."""


@dataclass(eq=False)
class CheckedModel:
    """A model ready to be checked.

    Attributes:
        model: The model, as it is called.
        layers: Its decoder layers, found by running it.
        prompts: What it is asked, in its number format and on its device.
        dtype: What it computes in.
        truth: The same layers in float32, where they fit and this is another number format.
        noise: How far rounding takes the stock model.
        deterministic: Whether two stock forwards give the same bits.
        tables: Rotary tables of the batch, by layer and forward, where the stock model makes others for it
            than for its prompts alone.
    """

    model: Any
    layers: nn.ModuleList
    prompts: Prompts
    dtype: torch.dtype
    truth: CheckedModel | None = None
    noise: Distance = field(default_factory=Distance)
    deterministic: bool = True
    tables: list[list[Any]] | None = None
    _known: dict[tuple[str, int], tuple[Inputs, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, model: Any, prompts: Prompts, truth: CheckedModel | None = None) -> CheckedModel:
        """Measures how far rounding takes a model."""
        dtype = bare(model).get_input_embeddings().weight.dtype
        prompts = prompts.to(dtype, home(model))
        layers = find_layers(model, prompts.text)
        bench = cls(model, layers, prompts, dtype, truth)
        told = reference.stock(model, prompts.picture)
        again = reference.stock(model, prompts.picture)
        bench.deterministic = torch.equal(told.hidden_MD, again.hidden_MD)
        dense = reference.Account.dense(prompts.picture["input_ids"].shape[1], len(layers))
        found = [again.hidden_MD, *(bench.slow(prompts.picture, dense, kind).hidden_MD for kind in KINDS)]
        if truth is not None:
            found.append(reference.stock(truth.model, truth.prompts.picture).hidden_MD)
        bench.noise = Distance.worst_of([Distance.of(told.hidden_MD, other) for other in found])
        return bench

    @property
    def depth(self) -> int:
        """Decoder layers."""
        return len(self.layers)

    @property
    def name(self) -> str:
        """Number format and layers, as tables show them."""
        return f"{str(self.dtype).removeprefix('torch.')}, {self.depth} layers"

    def visual(self, inputs: Inputs) -> torch.Tensor:
        """Visual rows (N) of a prompt, found by changing its picture."""
        return self._once("visual", inputs, lambda: visual_rows(self.model, self.layers, inputs))

    def pictures(self, inputs: Inputs, shown: int | None) -> list[int] | None:
        """Visual rows of every picture of a prompt, None where they cannot be told apart."""
        visual_N = self.visual(inputs)
        return self._once(
            "pictures",
            inputs,
            lambda: rows_of_pictures(self.model, self.layers, inputs, visual_N, shown),
        )

    def stock(self, inputs: Inputs) -> reference.ForwardOutput:
        """A forward of the model as it is, without a plan."""
        return self._once("stock", inputs, lambda: reference.stock(self.model, inputs))

    def _once(self, what: str, inputs: Inputs, make: Callable[[], Any]) -> Any:
        """Something about a prompt, found once; it is held, so that no other takes its place in memory."""
        key = (what, id(inputs))
        if key not in self._known:
            self._known[key] = (inputs, make())
        return self._known[key][1]

    def slow(self, inputs: Inputs, account: reference.Account, kind: str = "sdpa", **how: Any) -> Any:
        """A forward of the reference."""
        return reference.run(self.model, self.layers, inputs, account, kind, **how)


KINDS = ("sdpa", "eager")
"""Attention implementations between which rounding is measured."""


def home(model: Any) -> torch.device | None:
    """Where a model wants its inputs; None where its embeddings lie on no device (offloaded weights)."""
    device = bare(model).get_input_embeddings().weight.device
    return None if device.type == "meta" else device


def shallow(config: Any, depth: int) -> Any:
    """A configuration of the same model with its first decoder layers alone, so that only they are read.

    Args:
        config: The model's configuration; a copy of it is changed.
        depth: Decoder layers to keep.
    """
    found = copy.deepcopy(config)
    text = found.get_text_config()
    kinds = getattr(text, "layer_types", None)
    text.num_hidden_layers = min(depth, text.num_hidden_layers)
    if kinds is not None:
        text.layer_types = kinds[: text.num_hidden_layers]
    return found


@contextmanager
def shortened(model: Any, layers: nn.ModuleList, depth: int) -> Iterator[None]:
    """Leaves a model only its first decoder layers for a while."""
    first: Any = layers[least_depth(layers) - 1]
    mixer: Any = mixer_of(first)
    own: tuple[Any, ...] = (mixer.config, bare(model).config.get_text_config())
    configs = {id(config): config for config in own}
    before = [(c, c.num_hidden_layers, getattr(c, "layer_types", None)) for c in configs.values()]
    tail = list(layers[depth:])
    try:
        del layers[depth:]
        for config, _, kinds in before:
            config.num_hidden_layers = depth
            if kinds is not None:
                config.layer_types = kinds[:depth]
        yield
    finally:
        layers.extend(tail)
        for config, number, kinds in before:
            config.num_hidden_layers = number
            if kinds is not None:
                config.layer_types = kinds


def no_float32(model: Any) -> str:
    """Why no float32 copy can be made of a model; empty where one can."""
    stock = bare(model)
    if getattr(stock, "is_quantized", False) or getattr(stock, "hf_quantizer", None) is not None:
        return "the weights are quantised"
    devices = {parameter.device for parameter in stock.parameters()}
    if len(devices) > 1 or next(iter(devices)).type == "meta":
        return "the weights are spread over devices or offloaded"
    return ""


def layers_that_fit(model: Any, layers: nn.ModuleList, free: float) -> int:
    """How many first decoder layers a float32 copy may have.

    Args:
        model: The model.
        layers: Its decoder layers.
        free: Free bytes on its device.
    """
    each = 4 * max(sum(p.numel() for p in layer.parameters()) for layer in layers)
    inside = {id(p) for p in layers.parameters()}
    rest = 4 * sum(p.numel() for p in bare(model).parameters() if id(p) not in inside)
    found = max(0, min(len(layers), int((ROOM * free - rest) // max(each, 1))))
    return found if found >= least_depth(layers) else 0


def float32_copy(model: Any, layers: nn.ModuleList, depth: int) -> Any:
    """A copy of a model with its first decoder layers, in float32."""
    with shortened(model, layers, depth):
        found = copy.deepcopy(bare(model)).float().eval()
    family = find(model)
    if family.generic:
        # An adapter made by inspection belongs to a model, not to its type.
        adopt(found, family)
    return found


@contextmanager
def exactly() -> Iterator[None]:
    """Products of float32 in float32, also where a device would round them."""
    matmul, conv = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = conv
