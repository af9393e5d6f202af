"""Every single method at a cost: what a tuned plan has to beat, and what its picture shows beside it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from saccade.evaluation.matched import first_layer
from saccade.methods import METHODS, Method
from saccade.methods.base import LayerMethod
from saccade.methods.kinds import TRAINED
from saccade.plans.plan import Plan
from saccade.tuning.price import Pricer

Fit = Callable[[Callable[[Method], bool]], Method | None]
"""Finds a method's mildest setting that is cheap enough, which it is told by what it is given."""

ORDERED_BY = {"attention": "vig", "ffn": "ffn", "freeze": "lc"}
"""Score whose order a method that skips layers takes, by the operation whose losses give it."""


def single(
    name: str,
    pricer: Pricer,
    budget: float,
    orders: Mapping[str, Sequence[int]],
    fits: Mapping[str, Fit] = MappingProxyType({}),
) -> Plan | None:
    """A method alone, turned until it just costs no more than a budget.

    Args:
        name: Its name.
        pricer: What plans cost.
        budget: The most it may cost, over the dense model.
        orders: Layers from the least to the most harmful, by score name.
        fits: How methods that are fitted find their settings, by name.

    Returns:
        The plan; None where the method has nothing to turn, or cannot be that cheap.
    """
    if name in fits:
        fitted = fits[name](lambda method: pricer.ratio(Plan((method,))) <= budget)
        return None if fitted is None else Plan((fitted,))
    layers = pricer.shape.layers
    cls: Any = METHODS[name]
    at = first_layer(cls, layers)
    method: Method = cls() if at is None else cls(layer=at)
    order = orders.get(method.score or "", tuple(reversed(range(layers))))

    def plan(strength: int) -> Plan:
        turned = method.at_strength(strength)
        return Plan((turned.resolve(layers, order if isinstance(turned, LayerMethod) else None),))

    try:
        high = method.max_strength(layers, order)
        if high < 1 or pricer.ratio(plan(high)) > budget:
            return None
        return plan(
            bisect_left(range(high), True, key=lambda strength: pricer.ratio(plan(strength)) <= budget)
        )
    except ValueError:
        return None


def singles(
    pricer: Pricer,
    budget: float,
    orders: Mapping[str, Sequence[int]],
    fits: Mapping[str, Fit] = MappingProxyType({}),
) -> dict[str, Plan]:
    """Every registered method alone at a cost, by its title; those that cannot be that cheap are left out."""
    found = {}
    for name, cls in METHODS.items():
        plan = None if name in TRAINED else single(name, pricer, budget, orders, fits)
        if plan is not None:
            found[cls.title] = plan
    return found
