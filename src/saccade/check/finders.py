"""Where a model's decoder layers and a prompt's visual rows are, found by running it; no adapter is asked.

Shape letters: N rows of the prompt, D hidden.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache
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


def told_of(model: Any) -> Any:
    """The module whose first output the head gets: the core, or, of a model without one, its decoder."""
    stock = bare(model)
    if stock.base_model is not stock:
        return stock.base_model
    head = stock.get_output_embeddings()
    beside = next(list(m.children()) for m in stock.modules() if any(c is head for c in m.children()))
    return next(module for module in beside if module is not head)


@contextmanager
def head_inputs(model: Any) -> Iterator[list[torch.Tensor]]:
    """Catches what the head gets (B, N, D), one entry for every forward."""
    caught: list[torch.Tensor] = []
    with told_of(model).register_forward_hook(lambda module, args, output: caught.append(output[0])):
        yield caught


def lists_of_layers(model: nn.Module) -> list[nn.ModuleList]:
    """Every list of modules that all have a ``mixer_of`` and an ``ffn_of``, the longest first."""
    found = [
        module
        for module in model.modules()
        if isinstance(module, nn.ModuleList)
        and len(module)
        and any(_named(layer, ATTENTIONS) for layer in module)
        and all(_named(layer, (*ATTENTIONS, *RECURRENCES)) and _named(layer, FFNS) for layer in module)
    ]
    return sorted(found, key=len, reverse=True)


ATTENTIONS = ("self_attn", "attention", "attn")
RECURRENCES = ("linear_attn", "conv")
FFNS = ("mlp", "feed_forward", "block_sparse_moe", "ffn", "moe")
"""What transformers calls the modules of a layer: attention, what mixes rows through a state, and the FFN."""


def _named(layer: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    found = (getattr(layer, name, None) for name in names)
    return [module for module in found if isinstance(module, nn.Module)]


def recurs(layer: nn.Module) -> bool:
    """Whether a layer has no attention, but a recurrence."""
    return not _named(layer, ATTENTIONS)


def recurrent_layers(layers: nn.ModuleList) -> list[int]:
    """Numbers of the layers that have no attention."""
    return [number for number, layer in enumerate(layers) if recurs(layer)]


def least_depth(layers: nn.ModuleList) -> int:
    """How many first layers are a decoder by themselves: caches count rows in one that has attention."""
    return 1 + next(number for number, layer in enumerate(layers) if not recurs(layer))


def mixer_of(layer: Any) -> nn.Module:
    """The module that lets a layer's rows know of each other."""
    return _named(layer, (*ATTENTIONS, *RECURRENCES))[0]


def ffn_of(layer: Any) -> nn.Module:
    """The module that works on a layer's rows one by one."""
    return _named(layer, FFNS)[0]


def growth_of(attention: Any, at_M: torch.Tensor) -> torch.Tensor | None:
    """By what queries at these places grow (M), or None where they do not.

    Llama 4's layers without rotary positions count rows (arXiv 2501.19399), which no argument tells them.
    """
    if not getattr(attention, "attn_temperature_tuning", False) or attention.use_rope:
        return None
    steps = torch.floor((at_M.float() + 1) / attention.floor_scale)
    return torch.log1p(steps) * attention.attn_scale + 1


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
    with ExitStack() as hooks:
        for layer in itertools.chain(*lists):
            hooks.enter_context(layer.register_forward_pre_hook(lambda module, args: ran.add(id(module))))
        model(**text, use_cache=False)
    for layers in lists:
        if all(id(layer) in ran for layer in layers):
            return layers
    raise ValueError(
        "no decoder layers with an attention and an FFN ran for a prompt without a picture, so there is "
        "nothing to compare with; this kind of model cannot be checked yet"
    )


def named(module: nn.Module, args: tuple, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call by name."""
    kind: Any = type(module)
    bound = _signature(kind).bind_partial(module, *args, **kwargs)
    values = dict(bound.arguments)
    values.pop("self", None)
    for parameter in bound.signature.parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            values |= values.pop(parameter.name, {})
    return values


@lru_cache(maxsize=64)
def _signature(kind: Any) -> inspect.Signature:
    return inspect.signature(kind.forward)


def takes(module: nn.Module, name: str) -> bool:
    """Whether a module's forward has a parameter of this name."""
    kind: Any = type(module)
    return name in _signature(kind).parameters


@contextmanager
def first_input(layers: nn.ModuleList) -> Iterator[list[torch.Tensor]]:
    """Catches what the first layer gets (1, N, D), one entry for every forward."""
    caught: list[torch.Tensor] = []

    def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        caught.append(named(module, args, kwargs)["hidden_states"].detach())

    with layers[0].register_forward_pre_hook(hook, with_kwargs=True):
        yield caught


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


@torch.no_grad()
def rows_of_pictures(
    model: nn.Module, layers: nn.ModuleList, inputs: Inputs, visual_N: torch.Tensor, pictures: int | None
) -> list[int] | None:
    """Visual rows of every picture of a prompt.

    Where text stands between pictures each has an unbroken run of rows. Where they touch, each is changed
    alone to see which rows are its own.

    Args:
        model: Any vision-language model.
        layers: Its decoder layers.
        inputs: One prompt.
        visual_N: Its visual rows.
        pictures: How many it shows; each run of rows is one if not known.

    Returns:
        Rows by picture, or None where they cannot be told apart.
    """
    edges = torch.diff(visual_N.int(), prepend=torch.zeros(1, dtype=torch.int)) == 1
    runs = torch.bincount(edges.cumsum(0)[visual_N], minlength=1)[1:].tolist()
    if pictures == 1:
        return [sum(runs)]
    if pictures is None or len(runs) == pictures:
        return runs
    pixels = [key for key, value in inputs.items() if is_pixels(key, value)]
    if len(pixels) != 1 or len(inputs[pixels[0]]) != pictures:
        return None
    owner_N = torch.full(visual_N.shape, -1)
    with first_input(layers) as caught:
        model(**inputs, use_cache=False)
        for picture in range(pictures):
            other = inputs[pixels[0]].clone()
            other[picture] = -other[picture] - 0.5
            model(**{**inputs, pixels[0]: other}, use_cache=False)
            owner_N[(caught[0] != caught[-1]).any(-1)[0].cpu()] = picture
    # A row without any part of a picture (a newline) ends the line before it.
    owners = owner_N[visual_N].cummax(0).values
    return torch.bincount(owners.clamp(min=0), minlength=pictures).tolist()


def is_pixels(key: str, value: Any) -> bool:
    """Whether an input is a picture."""
    return key.startswith("pixel_values") and isinstance(value, torch.Tensor) and value.is_floating_point()
