"""Bounds beside measurements: whether they hold, how loose they are, and a table of it (pure)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

ROUNDING = 1e-4
"""A bound counts as held if it is missed by no more than this, relatively: spectral norms are of float32."""


@dataclass(frozen=True)
class Bound:
    """A kind of bound.

    Attributes:
        form: As ``printed``, or ``corrected``.
        source: Equations of the supplement it stands for or corrects.
        says: What is bounded.
        against: What it is compared with.
    """

    form: Literal["printed", "corrected"]
    source: str
    says: str
    against: str


BOUNDS: dict[str, Bound] = {
    "attention_paper": Bound(
        "printed", "19, 23", "Lipschitz constant of attention", "Jacobian of the heads, before W_O"
    ),
    "attention_local": Bound("corrected", "19, 23", "the same, local, W_O in it", "Jacobian at the states"),
    "attention_between": Bound(
        "corrected", "19, 23", "the same between two inputs, with norm", "drift's gain"
    ),
    "ffn_paper": Bound("printed", "20, 25", "Lipschitz constant of the FFN", "Jacobian, largest over rows"),
    "ffn_swiglu": Bound("corrected", "20, 25", "the same of SwiGLU", "Jacobian, largest over rows"),
    "ffn_between": Bound("corrected", "20, 25", "the same between two inputs, with norm", "drift's gain"),
    "rmsnorm": Bound("corrected", "14", "Lipschitz constant of RMSNorm", "drift's gain"),
    "step_paper": Bound("printed", "17", "drift after a layer", "largest skipped row"),
    "step_residual": Bound("corrected", "17", "the same with residuals", "whole sequence"),
    "total_paper": Bound("printed", "18", "drift after the last layer", "largest skipped row"),
    "total_index_fixed": Bound("printed", "18", "the same, indices fixed", "largest skipped row"),
    "total_residual": Bound("corrected", "18", "the same with residuals", "whole sequence"),
    "geometric_paper": Bound("printed", "26", "drift by a geometric series", "largest skipped row"),
    "geometric_residual": Bound("corrected", "26", "the same with residuals", "whole sequence"),
    "logits": Bound("corrected", "27", "difference of logits from the last row's drift", "norm of it"),
    "kl_paper": Bound("printed", "27, 30", "KL, Gaussian", "KL of the next token"),
    "kl_l2": Bound(
        "corrected", "27, 30", "KL, from the norm of the logits' difference", "KL of the next token"
    ),
    "kl_range": Bound("corrected", "27, 30", "KL, from their range", "KL of the next token"),
    "kl_chain": Bound("corrected", "27, 30", "KL, from the total bound", "KL of the next token"),
    "similarity_paper": Bound("printed", "31", "distance of a row from the one it joined", "that distance"),
    "similarity_joined": Bound("corrected", "31", "the same, with the norms", "that distance"),
    "similarity_became": Bound(
        "corrected", "31", "distance of a row from the mean that it became", "that distance"
    ),
    "kl_merge_paper": Bound("printed", "31", "KL of skipping and merging, Gaussian", "KL of the next token"),
    "kl_merge_l2": Bound(
        "corrected", "31", "the same, from the norm of the logits' difference", "KL of the next token"
    ),
}
"""Every bound by name, in the order of tables."""


@dataclass(frozen=True)
class Check:
    """One comparison.

    Attributes:
        bound: Name, of ``BOUNDS``.
        layer: The layer, or None where it is of the whole model.
        value: What the bound says; infinite beyond the range of a double.
        measured: What was measured.
        rounding: How much of that may be rounding of the forwards, which no theory speaks of.
    """

    bound: str
    layer: int | None
    value: float
    measured: float
    rounding: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether the measurement stays below, up to rounding."""
        return self.measured <= self.value * (1 + ROUNDING) + self.rounding

    @property
    def looseness(self) -> float | None:
        """Bound over measurement; below 1 it fails. None where nothing was to be bounded."""
        return self.value / self.measured if self.measured > 0 else None


@dataclass(frozen=True)
class TheoryVerdict:
    """A kind of bound over many comparisons.

    Attributes:
        bound: Its name.
        comparisons: How many there were.
        failures: In how many it did not hold.
        value: Median of what it says.
        measured: Median of what was measured.
        looseness: Median, smallest and largest of bound over measurement, where something was measured.
    """

    bound: str
    comparisons: int
    failures: int
    value: float
    measured: float
    looseness: tuple[float, float, float] | None

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary, with what kind of bound it is."""
        return asdict(BOUNDS[self.bound]) | asdict(self)


def verdicts(checks: Iterable[Check]) -> list[TheoryVerdict]:
    """Sums comparisons up by bound, in the order of ``BOUNDS``."""
    grouped: dict[str, list[Check]] = {name: [] for name in BOUNDS}
    for check in checks:
        grouped[check.bound].append(check)
    return [_verdict(name, found) for name, found in grouped.items() if found]


def _verdict(name: str, checks: Sequence[Check]) -> TheoryVerdict:
    ratios = [check.looseness for check in checks if check.looseness is not None]
    return TheoryVerdict(
        bound=name,
        comparisons=len(checks),
        failures=sum(not check.holds for check in checks),
        value=statistics.median(check.value for check in checks),
        measured=statistics.median(check.measured for check in checks),
        looseness=(statistics.median(ratios), min(ratios), max(ratios)) if ratios else None,
    )


def in_words(number: float | None) -> str:
    """A number as tables show it: three figures, and what is beyond a double as such."""
    if number is None or math.isnan(number):
        return "-"
    return "over 1e308" if math.isinf(number) else f"{number:.3g}"
