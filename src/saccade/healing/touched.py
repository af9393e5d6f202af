"""Which linear modules of the decoder an adapter goes on: all that work, from where the plan begins.

Before the first layer whose rows a plan changes the model computes exactly what the dense model does, and has
nothing to make up for. From that layer on every linear module trains through which rows still pass: text
rows pass all of them, and of the visual rows those that the plan keeps there.
"""

from __future__ import annotations

from saccade.core.layout import Layout
from saccade.models import Loaded
from saccade.plans.plan import Plan
from saccade.training.parts import linear_names

PROMPT = (64, 16)
"""Visual and text rows of the prompt at which it is looked where a plan begins."""


def first_touched(plan: Plan, layers: int) -> int:
    """The first layer whose rows a plan changes; 0 where the prompt itself is another.

    Raises:
        ValueError: If it changes none.
    """
    if plan.shortening or any(m.tower_merge is not None or m.tower_prune is not None for m in plan.methods):
        return 0
    route = plan.route(Layout.single(*PROMPT), layers)
    found = next((number for number, layer in enumerate(route.layers) if not layer.is_dense), None)
    if found is None:
        raise ValueError(f"{plan.spec} changes nothing, so there is nothing to heal")
    return found


def adapted_names(loaded: Loaded, plan: Plan) -> tuple[int, list[str]]:
    """Where a plan begins, and full names of the linear modules from there on."""
    first = first_touched(plan, loaded.shape.layers)
    layers = loaded.family.parts(loaded.model).layers
    kept = {id(module) for layer in list(layers)[first:] for module in layer.modules()}
    names = linear_names(loaded.model, loaded.family, ())
    return first, [name for name in names if id(loaded.model.get_submodule(name)) in kept]
