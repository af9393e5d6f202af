"""What a check accepts of an adapter that was made by inspection: which methods, on this very model.

Shape letters: N rows of the prompt, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from saccade.check.distance import Distance
from saccade.check.finders import Inputs, named, recurrent_layers
from saccade.check.groups import examples, group_of
from saccade.check.probes import logits
from saccade.check.report import CheckedPlan
from saccade.engine import apply
from saccade.families import Family
from saccade.methods import METHODS, Method
from saccade.plans.plan import Plan

STOCK = "stock"


def accepted_methods(rows: Sequence[CheckedPlan], depth: int, plan: Plan | None = None) -> tuple[str, ...]:
    """Names of the methods whose plans a check found to hold.

    A method is accepted where every group that it has a plan in passed, in every number format. A plan that
    was checked alone speaks for its own methods.

    Args:
        rows: What was found, of all number formats.
        depth: Decoder layers that were checked.
        plan: The one plan that was checked; None where plans of all groups were.
    """
    if any(row.group == STOCK and row.status != "passed" for row in rows):
        return ()
    judged = [row for row in rows if row.group != STOCK]
    if plan is not None:
        held = bool(judged) and all(row.status == "passed" for row in judged)
        return tuple(sorted({method.name for method in plan.methods})) if held else ()
    passed = {row.group for row in judged if row.status == "passed"}
    passed -= {row.group for row in judged if row.status in ("failed", "refused")}
    found = []
    for name, cls in METHODS.items():
        each = examples(cls, depth)
        # Some of a group look into the tower for what others find in the decoder.
        if each and not any(_looks_in(method, depth) for method in each):
            found += [name] if {group_of(method, depth) for method in each} <= passed else []
    return tuple(sorted(found))


@torch.no_grad()
def running(model: Any, names: Sequence[str], layers: nn.ModuleList, inputs: Inputs) -> tuple[str, ...]:
    """Those of some methods that a model takes: of a group may be some that need what it does not tell.

    Args:
        model: Any vision-language model, whose adapter is on trial.
        names: Methods whose groups passed.
        layers: Its decoder layers.
        inputs: One prompt with a picture.
    """
    depth, recurrent = len(layers), recurrent_layers(layers)

    def runs(method: Method) -> bool:
        try:
            with apply(model, Plan((method,))):
                logits(model, dict(inputs))
        except ValueError:
            return False
        return True

    return tuple(name for name in names if all(map(runs, examples(METHODS[name], depth, recurrent))))


def _looks_in(method: Method, depth: int) -> bool:
    return method.tower_merge is not None or any(s.look.tower is not None for s in method.stages(depth))


@torch.no_grad()
def check_sight(model: Any, layers: nn.ModuleList, inputs: Inputs, visual_N: torch.Tensor) -> None:
    """Refuses a model whose rows see later rows of a prompt with a picture, which words alone do not show.

    Args:
        model: Any vision-language model.
        layers: Its decoder layers.
        inputs: One prompt with a picture.
        visual_N: Its visual rows.

    Raises:
        ValueError: If an earlier row changes with a later one.
    """
    if not bool(visual_N.any()):
        return
    last, left = int(visual_N.nonzero()[-1]), []

    def change(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
        given = named(module, args, kwargs)
        hidden = given["hidden_states"].clone()
        hidden[:, last] = -hidden[:, last].roll(1, -1)
        return (), given | {"hidden_states": hidden}

    def keep(module: nn.Module, args: tuple, output: Any) -> None:
        left.append(output[0] if isinstance(output, tuple) else output)

    with layers[-1].register_forward_hook(keep):
        model(**inputs, use_cache=False)
        with layers[0].register_forward_pre_hook(change, with_kwargs=True):
            model(**inputs, use_cache=False)
    before, after = (hidden[0, :last] for hidden in left)
    limit = 1e-4 if before.dtype == torch.float32 else 5e-2
    if Distance.of(after, before).worst > limit:
        raise ValueError(
            "rows of a picture see later rows of it: the masks of this decoder are not causal, which an "
            "adapter made by inspection does not know"
        )


@torch.no_grad()
def check_stream(model: Any, family: Family, layers: nn.ModuleList, inputs: Inputs) -> None:
    """Refuses a model that does more to rows on their way to and between its layers than the adapter knows.

    What a decoder adds to the rows of a picture alone, words do not show.

    Args:
        model: Any vision-language model.
        family: Its adapter.
        layers: Its decoder layers.
        inputs: One prompt with a picture.

    Raises:
        ValueError: If rows reach a layer as something else than the layer before, or the embeddings, gave.
    """
    came: list[torch.Tensor] = []
    left: list[torch.Tensor] = []
    told: list[bool] = []

    def enter(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        given = named(module, args, kwargs)
        told.append(family.added(given) is not None)
        left.append(given["inputs_embeds"].clone())

    def arrive(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        came.append(named(module, args, kwargs)["hidden_states"].clone())

    def leave(module: nn.Module, args: tuple, output: Any) -> None:
        left.append((output[0] if isinstance(output, tuple) else output).clone())

    decoder = family.parts(model).decoder
    with ExitStack() as hooks:
        hooks.enter_context(decoder.register_forward_pre_hook(enter, with_kwargs=True))
        for layer in layers:
            hooks.enter_context(layer.register_forward_pre_hook(arrive, with_kwargs=True))
            hooks.enter_context(layer.register_forward_hook(leave))
        model(**inputs, use_cache=False)
    for number, (before, after) in enumerate(zip(left, came, strict=False)):
        if number and told[0]:
            continue
        sent, got = before[0].to(after.device).double(), after[0].double()
        # Decoders may scale embeddings.
        scale = 1.0 if number else float((sent * got).sum() / sent.square().sum().clamp(min=1e-12))
        if Distance.of(got, sent * scale).worst > (1e-4 if after.dtype == torch.float32 else 5e-2):
            where = f"between its layers {number - 1} and {number}" if number else "before its first layer"
            raise ValueError(
                f"its decoder does something to the rows of a picture {where}, which an adapter made by "
                "inspection does not know"
            )
