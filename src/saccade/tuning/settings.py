"""What a tuning is asked for: one value, made once by the command line or Python, passed whole (pure)."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from saccade.core.cards import card
from saccade.system.processes import check_helpers
from saccade.tuning.operations import OPERATIONS, check_allowed

COSTS = ("flops", "time", "kv")
"""What a budget may be a share of."""

LEVELS = (0.85, 0.7, 0.6, 0.5, 0.4, 0.3)
"""Costs at which a search looks for the cheapest plan within a loss."""

LADDER = (2 / 3, 1 / 3)
"""Costs between a budget and dense that are searched on the way, as shares of the way."""

TARGET_SHARE = 0.6
"""Share of the passes that the budget itself gets, beside the costs on the way."""

PASSES = 24_000
"""Prompts that a search runs under plans unless told otherwise: about ten minutes of the embedded model."""

FEWEST = 8
"""Samples with which a search begins at all."""


@dataclass(frozen=True)
class Settings:
    """What is wanted, what may be used, and how hard to try.

    Attributes:
        flops: Share of the dense FLOPs that the plan may cost.
        time: Share of the dense time to the first token, here or on ``on``.
        kv: Share of the dense KV cache.
        max_loss: Points of accuracy that the plan may lose, proven on held-out samples.
        on: A device that is not here, whose time is predicted (``saccade.core.cards``).
        allow: Operations that may be used, some of ``saccade.tuning.operations.OPERATIONS``.
        engine: What will serve the plan.
        num_samples: Samples that the search sees, at most.
        num_held_out: Samples that judge its plans, at most.
        passes: Prompts that the search may run under plans.
        each_task: Whether every task has to stay within ``max_loss``, not the mean alone.
        unsure: Share of the prompts that may be answered by the dense model, where the plan is unsure.
        batch: Prompts that run together.
        tokens: Longest answer that is looked at.
        seed: Of the draw.
    """

    flops: float | None = None
    time: float | None = None
    kv: float | None = None
    max_loss: float | None = None
    on: str | None = None
    allow: tuple[str, ...] = OPERATIONS
    engine: str = "transformers"
    num_samples: int = 104
    num_held_out: int = 260
    passes: int = PASSES
    each_task: bool = True
    unsure: float | None = None
    batch: int = 26
    tokens: int = 24
    seed: int = 0

    def __post_init__(self) -> None:
        given = [name for name in COSTS if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"give one budget, not {' and '.join(given)}")
        if not given and self.max_loss is None:
            raise ValueError("say what is wanted: flops, time or kv (a share of dense), or max_loss (points)")
        for name in (*COSTS, "unsure"):
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and 0 < value < 1):
                raise ValueError(f"{name.replace('_', ' ')} is a share between 0 and 1, got {value}")
        if self.max_loss is not None and not (_is_number(self.max_loss) and 0 < self.max_loss <= 100):
            raise ValueError(f"max_loss is a number of points above 0 and up to 100, got {self.max_loss}")
        if self.on is not None and self.time is None and given:
            raise ValueError(f"on={self.on} predicts time; give a share of the time, not of {given[0]}")
        for name, least in (
            ("num_samples", FEWEST),
            ("num_held_out", 1),
            ("passes", 1),
            ("batch", 1),
            ("tokens", 1),
        ):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise ValueError(f"{name} is a number from {least}, got {value!r}")
        if self.on is not None:
            card(self.on)
        if type(self.seed) is not int or self.seed < 0:
            raise ValueError(f"seed is a number from 0, got {self.seed!r}")
        object.__setattr__(self, "allow", tuple(self.allow))
        check_allowed(self.allow, self.engine)

    @property
    def cost(self) -> str:
        """What costs are counted in: ``flops``, ``time`` or ``kv``."""
        given = next((name for name in COSTS if getattr(self, name) is not None), None)
        return given or ("time" if self.on is not None else "flops")

    @property
    def budget(self) -> float | None:
        """Share of the dense cost that the plan may take; None where only a loss is given."""
        value = getattr(self, self.cost)
        return None if value is None else float(value)

    def check_processes(self, processes: int, ray: str | None = None) -> None:
        """Refuses processes that cannot be, or that would disturb what is measured.

        Raises:
            ValueError: If they do.
        """
        check_helpers(processes, ray)
        if processes > 1 and self.cost == "time" and self.on is None:
            raise ValueError(
                "a share of the time is measured here, where other processes would disturb it: give one "
                "process, or a device whose time is predicted (--on, on=)"
            )

    @property
    def steps(self) -> list[tuple[float, int]]:
        """Costs to search at, from dear to cheap, and the passes of each."""
        if self.budget is None:
            each = max(1, self.passes // len(LEVELS))
            return [(level, each) for level in LEVELS]
        before = [self.budget + (1 - self.budget) * part for part in LADDER]
        each = int(self.passes * (1 - TARGET_SHARE) / len(before))
        return [*((level, each) for level in before), (self.budget, self.passes - each * len(before))]

    def told(self) -> dict[str, Any]:
        """What differs from the defaults, as plain values."""
        mine = asdict(self)
        changed = {f.name: mine[f.name] for f in fields(self) if mine[f.name] != f.default}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in changed.items()}


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value)
