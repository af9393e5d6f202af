"""Where a model's decoder layers and a prompt's visual rows are, found by running it; no adapter is asked.

Shape letters: N rows of the prompt, D hidden.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

Inputs = Mapping[str, Any]
"""What a model is called with, by name; here always one prompt without padding."""


def bare(model: Any) -> Any:
    """The stock model inside a PEFT wrapper."""
    while hasattr(model, "get_base_model"):
        model = model.get_base_model()
    return model


def lists_of_layers(model: nn.Module) -> list[nn.ModuleList]:
    """Every list of modules that all have ``self_attn`` and ``mlp``, the longest first."""
    found = [
        module
        for module in model.modules()
        if isinstance(module, nn.ModuleList)
        and len(module)
        and all(hasattr(layer, "self_attn") and hasattr(layer, "mlp") for layer in module)
    ]
    return sorted(found, key=len, reverse=True)


@torch.no_grad()
def find_layers(model: nn.Module, text: Inputs) -> nn.ModuleList:
    """The decoder layers: the longest list of layers that runs when a prompt has no picture.

    A vision tower may be deeper than the decoder and have layers of the same parts, but it does not run then.

    Args:
        model: Any vision-language model.
        text: Inputs of a prompt without a picture.

    Raises:
        ValueError: If no such list of layers ran.
    """
    lists, ran = lists_of_layers(model), set()
    handles = [
        layer.register_forward_pre_hook(lambda module, args: ran.add(id(module)))
        for layers in lists
        for layer in layers
    ]
    try:
        model(**text, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    for layers in lists:
        if all(id(layer) in ran for layer in layers):
            return layers
    raise ValueError(
        "no decoder layers with self_attn and mlp ran for a prompt without a picture, so there is nothing to "
        "compare with; this kind of model cannot be checked yet"
    )


def named(module: nn.Module, args: tuple, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call by name."""
    bound = inspect.signature(type(module).forward).bind_partial(module, *args, **kwargs)
    values = dict(bound.arguments)
    values.pop("self", None)
    for parameter in bound.signature.parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            values |= values.pop(parameter.name, {})
    return values


@contextmanager
def first_input(layers: nn.ModuleList) -> Iterator[list[torch.Tensor]]:
    """Catches what the first layer gets (1, N, D), one entry for every forward."""
    caught: list[torch.Tensor] = []

    def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        caught.append(named(module, args, kwargs)["hidden_states"].detach())

    handle = layers[0].register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield caught
    finally:
        handle.remove()


@torch.no_grad()
def visual_rows(model: nn.Module, layers: nn.ModuleList, inputs: Inputs) -> torch.Tensor:
    """Which rows are visual: those whose input to the decoder changes with the picture, and their like.

    The picture is changed everywhere at once. What a model puts between patches (a newline) holds no part of
    the picture and does not change, but stands on the same placeholder token as rows that do.

    Args:
        model: Any vision-language model.
        layers: Its decoder layers.
        inputs: One prompt; without a picture nothing is visual.

    Returns:
        Boolean (N) on the CPU.
    """
    ids = inputs["input_ids"][0].cpu()
    pixels = {key: value for key, value in inputs.items() if is_pixels(key, value)}
    if not pixels:
        return torch.zeros(len(ids), dtype=torch.bool)
    draw = torch.Generator().manual_seed(0)
    other = {
        key: (torch.randn(value.shape, generator=draw).to(value) - value) for key, value in pixels.items()
    }
    with first_input(layers) as caught:
        model(**inputs, use_cache=False)
        model(**{**inputs, **other}, use_cache=False)
    changed = (caught[0] != caught[1]).any(-1)[0].cpu()
    return torch.isin(ids, ids[changed].unique())


def is_pixels(key: str, value: Any) -> bool:
    """Whether an input is a picture."""
    return key.startswith("pixel_values") and isinstance(value, torch.Tensor) and value.is_floating_point()
