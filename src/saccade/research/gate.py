"""Whether a model and its suite can show a difference at all: checked before any method is judged on them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from saccade.evaluation.results import Comparison
from saccade.methods import METHODS, LayerMethod
from saccade.methods.kinds import SKIPPING
from saccade.plans.plan import Plan
from saccade.report.text import points

LOSS, HALF_LOSS = 0.05, 0.03
"""Smallest losses of mean accuracy that pass: of crude plans, and of one method in 60 % of the layers."""
MOST_LAYERS = 0.6


@dataclass(frozen=True)
class GateLine:
    """One line of the gate.

    Attributes:
        what: What was done to the model.
        wanted: What has to come of it.
        found: What came of it.
        passed: Whether that is enough.
    """

    what: str
    wanted: str
    found: str
    passed: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary for JSON."""
        return asdict(self)


def crude_plans(num_layers: int) -> dict[str, Plan]:
    """Plans that must hurt a model that looks."""
    every = tuple(range(num_layers))
    return {
        "V-Skip in all layers": Plan((METHODS["vskip"](layers=every),)),  # type: ignore[call-arg]
        "ShortV in all layers": Plan((METHODS["shortv"](layers=every),)),  # type: ignore[call-arg]
        "VTW from layer 2": Plan((METHODS["vtw"](layer=2),)),  # type: ignore[call-arg]
        "a random quarter of the visual rows": Plan((METHODS["random"](keep=0.25),)),  # type: ignore[call-arg]
    }


def skipping_plans(num_layers: int, orders: Mapping[str, Sequence[int]]) -> dict[str, Plan]:
    """V-Skip, FFN-Skip and ShortV in 60 % of the layers, each by its own order."""
    budget = round(MOST_LAYERS * num_layers)
    plans = {}
    for name in SKIPPING:
        cls = METHODS[name]
        assert issubclass(cls, LayerMethod)
        plans[f"{cls.title} in {budget} of {num_layers} layers"] = Plan((cls(budget=budget),)).resolve(
            num_layers, dict(orders)
        )
    return plans


def judge_losses(found: Comparison, crude: Sequence[str], skipping: Sequence[str]) -> list[GateLine]:
    """Lines about accuracy: every crude plan must lose, and one of those that skip in most layers."""
    lines = [
        GateLine(
            name,
            f"loses at least {100 * LOSS:.0f} points, outside the interval",
            _loss(found, name),
            _lost(found, name, LOSS),
        )
        for name in crude
    ]
    losses = "; ".join(f"{name}: {_loss(found, name)}" for name in skipping)
    passed = any(_lost(found, name, HALF_LOSS) for name in skipping)
    wanted = f"one of them loses at least {100 * HALF_LOSS:.0f} points, outside the interval"
    return [*lines, GateLine("60 % of the layers", wanted, losses, passed)]


def _lost(found: Comparison, name: str, least: float) -> bool:
    difference = found.plans[name].mean.difference
    return (difference.value or 0.0) <= -least and (difference.high or 0.0) < 0


def _loss(found: Comparison, name: str) -> str:
    d = found.plans[name].mean.difference
    return f"{points(d.value)} points ({points(d.low)} to {points(d.high)})"


def judge_layers(vig_L: Sequence[float]) -> GateLine:
    """A quarter of the layers must have a VIG above a tenth of the largest."""
    largest = max(vig_L)
    above = [layer for layer, value in enumerate(vig_L) if value > largest / 10]
    wanted = f"a quarter of the {len(vig_L)} layers above a tenth of the largest VIG"
    told = f"{len(above)} layers: {', '.join(map(str, above))}"
    return GateLine("VIG over layers", wanted, told, largest > 0 and len(above) >= len(vig_L) / 4)


def judge_orders(by_task: Mapping[str, Sequence[Sequence[float]]]) -> GateLine:
    """The order of layers must differ between tasks by more than between two halves of a task's samples.

    Args:
        by_task: For each task, VIG of every sample and layer.
    """
    means = {task: torch.tensor(rows, dtype=torch.float64).mean(0) for task, rows in by_task.items()}
    within = []
    for rows in by_task.values():
        each = torch.tensor(rows, dtype=torch.float64)
        within.append(rank_correlation(each[::2].mean(0), each[1::2].mean(0)))
    pairs = list(itertools.combinations(means, 2))
    between = [rank_correlation(means[a], means[b]) for a, b in pairs]
    half = len(next(iter(means.values()))) // 2
    chosen = {task: frozenset(mean.argsort()[:half].tolist()) for task, mean in means.items()}
    sets = len(set(chosen.values()))
    inside, across = sum(within) / len(within), sum(between) / len(between)
    told = (
        f"mean rank correlation {across:.2f} between tasks, {inside:.2f} between halves of a task; "
        f"{sets} different sets of {half} layers over {len(means)} tasks"
    )
    wanted = "orders agree less between tasks than within one, and choose different layers"
    return GateLine("order of layers by task", wanted, told, across < inside and sets > 1)


def rank_correlation(a_L: torch.Tensor, b_L: torch.Tensor) -> float:
    """Spearman's rank correlation: Pearson's of midranks, so equal values share the mean of their ranks.

    0 where either side is constant, and so has no order.
    """
    ranks = torch.stack([_midranks(a_L), _midranks(b_L)])
    if (ranks == ranks[:, :1]).all(1).any():
        return 0.0
    return float(torch.corrcoef(ranks)[0, 1])


def _midranks(values_L: torch.Tensor) -> torch.Tensor:
    below_L = (values_L[None] < values_L[:, None]).sum(1)
    equal_L = (values_L[None] == values_L[:, None]).sum(1)
    return below_L.double() + equal_L / 2
