"""A model made ready for a healing, and given back as it was met."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from saccade.engine import apply
from saccade.models import Loaded
from saccade.plans.plan import Plan
from saccade.training import build as building
from saccade.training.config import LoraSettings


@contextmanager
def wrapped(
    loaded: Loaded,
    plan: Plan,
    lora: LoraSettings,
    names: Sequence[str],
    start: Mapping[str, torch.Tensor] | None = None,
) -> Iterator[Callable[[], building.Built]]:
    """Gives what wraps a model in adapters and puts the plan on; in the end the model is as it was met.

    Args:
        loaded: The model.
        plan: The plan.
        lora: Settings of the adapters.
        names: Full names of the modules that get them.
        start: Weights that they begin with, by parameter; adapters of other modules are left out.
    """
    model: Any = loaded.model
    training, before = model.training, set(vars(model))
    wanted = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    made: list[building.Built] = []

    def build() -> building.Built:
        over = building.adapted(loaded, lora, names)
        with torch.no_grad():
            for name, parameter in over.named_parameters():
                if start is not None and name in start:
                    parameter.copy_(start[name])
        made.append(building.Built(loaded, over, None, False))
        # Whether the plan fits was asked of the model without adapters, whose weights can be compared.
        made[-1] = replace(made[-1], plan=apply(over, plan, force=True))
        return made[-1]

    try:
        yield build
    finally:
        for one in made:
            if one.plan is not None:
                one.plan.remove()
            building.recompute_no_more(one.model)
            over: Any = one.model
            over.unload()
        for name in set(vars(model)) - before:
            delattr(model, name)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(wanted[name])
            parameter.grad = None
        model.train(training)
