"""Lines of layer-skipping plans, and the numbers of layers at which choices of layers are compared."""

from __future__ import annotations

from collections.abc import Sequence

from saccade.methods import METHODS
from saccade.plans.plan import Plan

SHARES = (1 / 4, 1 / 2, 19 / 32, 3 / 4)
"""Shares of the layers that are skipped; 19 of 32 is the papers' budget for LLaVA-1.5-7B."""


def budgets(depth: int) -> tuple[int, ...]:
    """Numbers of layers at ``SHARES`` of the depth, each once."""
    return tuple(dict.fromkeys(max(1, round(share * depth)) for share in SHARES))


def published(depth: int) -> int:
    """The papers' 19 of 32 layers at this depth (V-Skip, table 1, for V-Skip, FFN-Skip and ShortV)."""
    return max(1, round(19 / 32 * depth))


def first(order: Sequence[int], budget: int, method: str = "vskip") -> Plan:
    """A method in the first layers of an order."""
    return Plan((METHODS[method](layers=tuple(order[:budget])),))  # type: ignore[call-arg]
