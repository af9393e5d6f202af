"""Gates on layers: whether visual rows pass a layer's attention and its FFN, learnt by gradient.

Hard-concrete gates (Louizos, Welling and Kingma 2018, "Learning Sparse Neural Networks through L0
Regularization", equations 10 to 13): each is a random number that is 0 or 1 with a chance that trains. It
scales what a module adds to the visual rows, so a gate at 0 is that layer of V-Skip or FFN-Skip, and one at 1
the stock layer. A multiplier that climbs while they cost too much (Wang, Wohlwend and Lei 2020, "Structured
Pruning of Large Language Models", equation 9) brings the expected FLOPs to what was asked.

Shape letters: B batch, N rows, G operations (attention, FFN), L layers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from saccade.families import Family
from saccade.plans.plan import Plan
from saccade.tuning.price import Pricer
from saccade.tuning.space import DENSE, State

OPERATIONS = ("attention", "ffn")
"""What has a gate in every layer, as searches name it."""
BOTH = "freeze"
"""What a search calls a layer in which both are skipped."""

BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1
"""Temperature, and the range that is stretched over [0, 1] and clamped."""
OPEN = 2.5
"""Where gates begin, in log odds: nearly all open."""
HARD = 0.6
"""Share of the steps after which all of what was asked must be saved."""


class Gates(nn.Module):
    """Gates of all layers, and the multipliers of what they cost.

    Attributes:
        odds_GL: Log odds of every gate.
        multipliers: Of the gap to what was asked, and of its square; they climb by their gradient.
        visual_BN: Visual rows of the batch that is running; None where nothing is gated.
        values_GL: What the gates are in this batch.
    """

    def __init__(self, layers: int, share: float) -> None:
        """Open gates.

        Args:
            layers: Depth of the decoder.
            share: FLOPs that were asked for, over the dense model's.
        """
        super().__init__()
        self.share = share
        self.odds_GL = nn.Parameter(torch.full((len(OPERATIONS), layers), OPEN))
        self.multipliers = nn.Parameter(torch.zeros(2))
        self.multipliers.register_hook(torch.neg)
        self.visual_BN: torch.Tensor | None = None
        self.values_GL = torch.ones_like(self.odds_GL)

    @property
    def chances_GL(self) -> torch.Tensor:
        """Chance of every gate to be open at all (equation 12)."""
        return torch.sigmoid(self.odds_GL - BETA * math.log(-GAMMA / ZETA))

    def draw(self) -> None:
        """Draws what the gates are (equations 10 and 11)."""
        noise = torch.rand_like(self.odds_GL).clamp(1e-6, 1 - 1e-6)
        soft = torch.sigmoid((noise.logit() + self.odds_GL) / BETA)
        self.values_GL = (soft * (ZETA - GAMMA) + GAMMA).clamp(0, 1)

    def penalty(self, whole: float, saved_GL: torch.Tensor, done: float) -> torch.Tensor:
        """What the expected cost adds to the loss.

        Args:
            whole: Cost with all gates open, over the dense model's.
            saved_GL: What closing each gate saves, in the same unit.
            done: Share of the steps that were taken; more is asked for from step to step.
        """
        cost = whole - ((1 - self.chances_GL) * saved_GL).sum()
        gap = cost - (whole + (self.share - whole) * min(1.0, done / HARD))
        return self.multipliers[0] * gap + self.multipliers[1] * gap.square()

    @contextmanager
    def off(self) -> Iterator[None]:
        """All gates open."""
        before, self.visual_BN = self.visual_BN, None
        try:
            yield
        finally:
            self.visual_BN = before

    def scaled(self, operation: int, layer: int, output: Any) -> Any:
        """What a module gives, with what it adds to visual rows scaled by its gate."""
        if self.visual_BN is None:
            return output
        first = output[0] if isinstance(output, tuple) else output
        rows_BN1 = self.visual_BN.to(first.device)[..., None]
        if first.ndim == 2:  # experts may take all rows of a batch in one line
            rows_BN1 = rows_BN1.flatten(0, 1)
        gate = self.values_GL[operation, layer].to(device=first.device, dtype=first.dtype)
        first = torch.where(rows_BN1, first * gate, first)
        return (first, *output[1:]) if isinstance(output, tuple) else first


@contextmanager
def gated(model: nn.Module, family: Family, gates: Gates) -> Iterator[None]:
    """Lets gates work on a model's layers.

    Raises:
        ValueError: If what a layer adds is normed first, so that no scale would matter.
    """
    if family.norms_outputs:
        raise ValueError(
            f"{family.name} norms what attention and FFN add, which undoes a gate: choose layers with "
            "saccade calibrate or saccade tune, then heal"
        )

    def hook(operation: int, layer: int) -> Any:
        return lambda module, given, output: gates.scaled(operation, layer, output)

    handles = []
    for number, layer in enumerate(family.parts(model).layers):
        modules: tuple[Any, Any] = (family.mixer(layer), family.ffn_of(layer))
        handles += [one.register_forward_hook(hook(op, number)) for op, one in enumerate(modules)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def skipping(base: Plan, closed: Mapping[tuple[int, int], bool], layers: int) -> Plan:
    """A plan with some gates closed.

    Args:
        base: What runs beside them.
        closed: Whether a gate (operation, layer) is closed; open if it is not named.
        layers: Depth of the decoder.
    """

    def kind(layer: int) -> str:
        shut = [name for op, name in enumerate(OPERATIONS) if closed.get((op, layer))]
        return BOTH if len(shut) == len(OPERATIONS) else next(iter(shut), DENSE)

    skips = State(tuple(kind(layer) for layer in range(layers))).plan
    return Plan((*base.methods, *skips.methods))


def savings(base: Plan, pricer: Pricer, layers: int) -> tuple[float, torch.Tensor]:
    """Cost of a plan, and what closing each gate alone saves (G, L); shares of the dense model's cost."""
    whole = pricer.ratio(base)
    saved = [
        [whole - pricer.ratio(skipping(base, {(op, layer): True}, layers)) for layer in range(layers)]
        for op in range(len(OPERATIONS))
    ]
    return whole, torch.tensor(saved)


def chosen(base: Plan, odds_GL: torch.Tensor, pricer: Pricer, share: float) -> Plan:
    """The plan of the gates that are likeliest closed: as few as bring the cost to what was asked.

    Args:
        base: What runs beside them.
        odds_GL: Log odds of the gates.
        pricer: What plans cost.
        share: What the plan may cost, over the dense model's cost.

    Raises:
        ValueError: If all gates closed cost more.
    """
    layers = odds_GL.shape[1]
    order = sorted(
        ((op, layer) for op in range(len(OPERATIONS)) for layer in range(layers)),
        key=lambda gate: float(odds_GL[gate]),
    )
    closed: dict[tuple[int, int], bool] = {}
    found = skipping(base, closed, layers)
    for gate in order:
        if pricer.ratio(found) <= share:
            return found
        more = skipping(base, {**closed, gate: True}, layers)
        # Past the layer where the last visual row leaves there is nothing to save.
        if pricer.ratio(more) < pricer.ratio(found):
            closed[gate], found = True, more
    if pricer.ratio(found) > share:
        raise ValueError(
            f"no choice of layers brings {base.spec} to {share:g} of the FLOPs: with all of them skipped it "
            f"is at {pricer.ratio(found):.3f}; begin from a plan that drops rows"
        )
    return found
