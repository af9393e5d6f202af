"""Scores of layers with their provenance: what a calibration finds, before a budget cuts it.

Shape letters: S samples, L layers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from saccade.calibration.measures import ascending, first_below, mean_sd, shuffled


@dataclass(frozen=True)
class Scores:
    """Scores of every layer on every sample.

    Attributes:
        metric: Name of the score.
        num_layers: Layers of the model (L).
        values_SL: Score of every layer on every sample, in nats for the KL scores; empty for ``random``.
        samples: Ids of the samples.
        tasks: Their tasks, each once.
        direction: Of the KL; None for other distances.
        answer_tokens: Tokens of the model's own answer that were looked at, at most.
        eta: Largest mean KL at which VTW withdraws; used by ``withdrawal`` alone.
        draw: How the samples were drawn.
        seed: Of the draw, and of the permutation of ``random``.
        model: Fingerprint of the model.
        provenance: Hashes, versions, dtype, device, date.
        cost: What it took against brute force; empty where that was not measured.
    """

    metric: str
    num_layers: int
    values_SL: tuple[tuple[float, ...], ...]
    samples: tuple[str, ...]
    tasks: tuple[str, ...]
    direction: str | None = None
    answer_tokens: int = 1
    eta: float = 3e-3
    draw: str = "all"
    seed: int = 0
    model: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    cost: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def _statistics(self) -> tuple[list[float], list[float]]:
        return mean_sd(self.values_SL) if self.values_SL else ([], [])

    @property
    def mean(self) -> list[float]:
        """Mean score of every layer; empty for ``random``."""
        return self._statistics[0]

    @property
    def sd(self) -> list[float]:
        """Standard deviation over samples of every layer's score; empty for ``random``."""
        return self._statistics[1]

    @property
    def n(self) -> int:
        """Number of samples that were scored."""
        return len(self.values_SL)

    @cached_property
    def order(self) -> tuple[int, ...]:
        """Layers in the order a budget takes them.

        For ``withdrawal`` these are the layers from the smallest K on whose mean KL is at most ``eta``, the
        last one first; there may be none.
        """
        if self.metric == "random":
            return shuffled(self.num_layers, self.seed)
        if self.metric == "withdrawal":
            return tuple(range(self.num_layers - 1, first_below(self.mean, self.eta) - 1, -1))
        return ascending(self.mean)

    def record(self) -> dict[str, Any]:
        """What a plan keeps of it, as plain values."""
        extra = {"eta": self.eta} if self.metric == "withdrawal" else {}
        return {
            "metric": self.metric,
            "direction": self.direction,
            "position": "last prompt row" if self.answer_tokens == 1 else "every token of the answer",
            "answer_tokens": self.answer_tokens,
            **extra,
            "scores": {
                "mean": self.mean,
                "sd": self.sd,
                "n": self.n,
                "samples": [list(row) for row in self.values_SL],
            },
            "order": list(self.order),
            "samples": list(self.samples),
            "tasks": list(self.tasks),
            "draw": self.draw,
            "seed": self.seed,
            **self.provenance,
            "cost": self.cost,
        }
