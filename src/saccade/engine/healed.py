"""The adapter of a healed plan: put into the weights while the plan is on, and taken out of them exactly.

The changed weights stand in the place of the model's own, so that a healed plan costs what the plan costs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from saccade.opening.deltas import Deltas, read_deltas
from saccade.opening.digest import differ
from saccade.plans.adapter import AdapterRef, bound_to
from saccade.plans.plan import Plan


def check_bound(plan: Plan) -> None:
    """Refuses a plan whose adapter was trained under another one.

    Raises:
        ValueError: Saying so, or that the adapter is missing or damaged.
    """
    assert plan.adapter is not None
    if _of(plan.adapter).plan != bound_to(plan.spec):
        raise ValueError(
            f"the adapter {plan.adapter.folder} was trained under another plan than {plan.spec}: heal this "
            "one, or take the file as it was written"
        )


def unproven(model: nn.Module, adapter: AdapterRef) -> str:
    """What to say where it cannot be told whether an adapter was made for a model's weights.

    Args:
        model: The model, without wrappers.
        adapter: The adapter.

    Returns:
        A line; empty where they are the ones that it was made for, or any will do.

    Raises:
        ValueError: If they are certainly others.
    """
    if adapter.any_weights:
        return ""
    try:
        found = differ(model, _of(adapter).made_for)
    except LookupError as unknown:
        return f"it cannot be told whether the healed plan was trained on these weights: {unknown}"
    if found is None:
        return ""
    raise ValueError(
        f"this plan was healed on other weights of this shape ({found[0]}, and {found[1]} here), and its "
        "adapter belongs to those; heal it on this model, or use force"
    )


@torch.no_grad()
def put_on(model: nn.Module, adapter: AdapterRef, *, saved: bool = False) -> Callable[[], None]:
    """Puts an adapter into a model's weights.

    Args:
        model: The model, without wrappers.
        adapter: The adapter.
        saved: Whether the changed weights are those that are saved meanwhile; else the model's own are.

    Returns:
        What puts the model's own weights back, the very same tensors, wherever the model has been moved to.

    Raises:
        ValueError: If a module is not there, of another size, or holds no plain weights.
    """
    found = _of(adapter)
    modules = {name: _linear(model, name, pair) for name, pair in found.pairs.items()}
    own = [(module, module.weight) for module in modules.values()]

    hooks: list[Any] = []

    def back() -> None:
        for hook in hooks:
            hook.remove()
        for module, weight in own:
            # The model may have been moved, or had its precision changed, meanwhile.
            if (weight.device, weight.dtype) != (module.weight.device, module.weight.dtype):
                weight.data = weight.data.to(module.weight.device, module.weight.dtype)
            module.weight = weight

    try:
        with torch.inference_mode(False):
            for name, module in modules.items():
                changed = merged(module.weight.detach(), *found.pairs[name], found.scale)
                module.weight = nn.Parameter(changed, requires_grad=False)
        for module, weight in own if not saved else ():
            hooks.append(module.register_state_dict_post_hook(functools.partial(_saved, weight)))
            hooks.append(module.register_load_state_dict_pre_hook(_refuse_loading))
    except BaseException:
        back()
        raise
    return back


def _saved(own: torch.Tensor, module: nn.Linear, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """Saves the model's own weight in the place of the changed one: the plan is no part of the model."""
    like = module.weight
    state[f"{prefix}weight"] = own.detach().to(like.device, like.dtype)


def _refuse_loading(*args: Any) -> None:
    raise ValueError(
        "this model wears a healed plan, whose weights stand in the place of its own: remove the plan before "
        "other weights are loaded"
    )


def merged(weight: torch.Tensor, down: torch.Tensor, up: torch.Tensor, scale: float) -> torch.Tensor:
    """A weight (out, in) with a low-rank change: ``weight + scale * up @ down``, in float32 at least."""
    wide = torch.promote_types(weight.dtype, torch.float32)
    change = up.to(weight.device, wide) @ down.to(weight.device, wide)
    return (weight.to(wide) + scale * change).to(weight.dtype)


def _of(adapter: AdapterRef) -> Deltas:
    return read_deltas(adapter.folder, adapter.digest)


def _linear(model: nn.Module, name: str, pair: tuple[torch.Tensor, torch.Tensor]) -> nn.Linear:
    try:
        module = model.get_submodule(name)
    except AttributeError:
        raise ValueError(f"the plan's adapter changes {name}, which this model has not") from None
    if type(module) is not nn.Linear or type(module.weight) is not nn.Parameter:
        raise ValueError(
            f"the plan's adapter changes {name}, which holds no plain weights here "
            f"({type(module).__name__}): open the model without quantisation or adapters, or merge the "
            "plan's (saccade heal --merge)"
        )
    weight = module.weight
    if weight.device.type == "meta" or not weight.is_floating_point():
        raise ValueError(
            f"the plan's adapter changes {name}, whose weights are not in memory or are quantised: merge it "
            "into a model folder instead (saccade heal --merge)"
        )
    down, up = pair
    if weight.shape != (up.shape[0], down.shape[1]):
        raise ValueError(
            f"the plan's adapter changes {name} as {up.shape[0]} x {down.shape[1]}, and it is "
            f"{weight.shape[0]} x {weight.shape[1]} here"
        )
    return module
