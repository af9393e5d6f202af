"""Which parameters belong to the tower, the projector and the decoder, and which of them train."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from saccade.families import Family
from saccade.training.config import PARTS, Optimisation


def parts_of(model: nn.Module, family: Family) -> dict[str, list[tuple[str, nn.Parameter]]]:
    """Named parameters of every part, each once, under the model's own names.

    The projector is everything between the tower and the decoder: also the row that ends a line of tiles, or
    what Skip-Vision puts in a projector's place. Where nothing is (the tower makes embeddings itself), it is
    what follows the tower's layers.

    Raises:
        ValueError: If the vision tower is of a kind that cannot be taken apart.
    """
    found, tower = family.parts(model), family.tower(model)
    if tower is None:
        raise ValueError(f"{family.name}: this vision tower cannot be told from the projector")
    owner: dict[int, str] = {}
    for module in (found.decoder, found.head):
        for parameter in module.parameters() if module is not None else ():
            owner[id(parameter)] = "decoder"
    inside = {id(parameter) for parameter in tower.module.parameters()}
    if all(id(parameter) in inside or id(parameter) in owner for parameter in model.parameters()):
        children = list(tower.module.children())
        after = next(n for n, child in enumerate(children) if child is tower.layers) + 1
        for child in children[after:] if tower.follows is None else tower.follows:
            for parameter in child.parameters():
                owner.setdefault(id(parameter), "projector")
    for parameter in tower.module.parameters():
        owner.setdefault(id(parameter), "tower")
    parts: dict[str, list[tuple[str, nn.Parameter]]] = {part: [] for part in PARTS}
    for name, parameter in model.named_parameters():
        parts[owner.get(id(parameter), "projector")].append((name, parameter))
    return parts


def choose(model: nn.Module, family: Family, trained: Sequence[str]) -> None:
    """Lets the parts that train have gradients, and no other."""
    for part, named in parts_of(model, family).items():
        for _, parameter in named:
            parameter.requires_grad_(part in trained)


def groups(model: nn.Module, family: Family, settings: Optimisation) -> list[dict[str, Any]]:
    """Parameter groups of the optimizer: per part its learning rate; only matrices decay.

    Returns:
        Groups that are not empty, each with a ``part`` key for reports.
    """
    made = []
    for part, named in parts_of(model, family).items():
        training = [p for _, p in named if p.requires_grad]
        for matrices in (True, False):
            chosen = [p for p in training if (p.ndim >= 2) == matrices]
            if chosen:
                made.append(
                    {
                        "params": chosen,
                        "lr": settings.part_lr.get(part, settings.lr),
                        "weight_decay": settings.weight_decay if matrices else 0.0,
                        "part": part,
                    }
                )
    if not made:
        raise ValueError("nothing trains: the parts chosen have no parameters")
    return made


def frozen_towers(model: nn.Module, family: Family) -> list[nn.Module]:
    """The tower, where none of it trains: it stays in eval mode."""
    tower = family.tower(model)
    if tower is None or any(p.requires_grad for p in tower.module.parameters()):
        return []
    return [tower.module]


def counts(model: nn.Module, family: Family) -> dict[str, dict[str, int]]:
    """Parameters of every part, and how many of them train."""
    return {
        part: {
            "parameters": sum(p.numel() for _, p in named),
            "trained": sum(p.numel() for _, p in named if p.requires_grad),
        }
        for part, named in parts_of(model, family).items()
    }


def linear_names(model: nn.Module, family: Family, targets: Sequence[str]) -> list[str]:
    """Full names of the decoder layers' linear modules, for adapters.

    Raises:
        ValueError: If a target is the name of none of them.
    """
    layers = {id(m) for layer in family.parts(model).layers for m in layer.modules()}
    names = [n for n, m in model.named_modules() if id(m) in layers and _is_linear(m)]
    known = dict.fromkeys(name.rpartition(".")[2] for name in names)
    for target in targets:
        if target not in known:
            raise ValueError(f"lora.targets: no linear layer {target!r}; there are {', '.join(known)}")
    return [name for name in names if not targets or name.rpartition(".")[2] in targets]


def _is_linear(module: nn.Module) -> bool:
    """Whether an adapter can stand on it: a router of transformers' own makes more than a product."""
    return isinstance(module, nn.Linear) and not type(module).__module__.startswith("transformers.models.")


def needed(model: nn.Module, family: Family) -> dict[str, torch.Tensor]:
    """What a checkpoint must hold: parameters that train, and the projector, which may be newly made."""
    projector = {name for name, _ in parts_of(model, family)["projector"]}
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad or name in projector
    }
