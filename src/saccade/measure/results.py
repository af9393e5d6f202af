"""What a bench reports.

Times are seconds, rates GFLOP/s, sizes bytes.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class PairedRuns:
    """Something measured on both sides of every pair of runs.

    Attributes:
        dense: Median of the stock model.
        plan: Median under the plan.
        ratio: Median over pairs of plan over stock.
        low: Lower quartile of those pairs.
        high: Upper quartile of those pairs.
    """

    dense: float
    plan: float
    ratio: float
    low: float
    high: float

    @classmethod
    def of(cls, dense: Sequence[float], plan: Sequence[float]) -> PairedRuns:
        """Compares measurements run by run."""
        ratios = [p / d for d, p in zip(dense, plan, strict=True)]
        quartiles = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
        low, ratio, high = quartiles
        return cls(statistics.median(dense), statistics.median(plan), ratio, low, high)


NOISE = 0.5
"""Between the quartiles of the pairs, half the promised saving: from there on the captured share is noise."""

FEWEST_PAIRS = 3
"""Pairs without which nothing is known of their spread."""


def is_noise(low: float, high: float, flops_ratio: float) -> bool:
    """Whether the captured share of a saving says nothing, for the pairs differ by as much as was promised.

    Args:
        low: Lower quartile of the time ratios.
        high: Upper quartile.
        flops_ratio: FLOPs of the plan over those of the stock model.
    """
    return high - low > NOISE * abs(1 - flops_ratio)


@dataclass(frozen=True)
class Phase:
    """One phase (prefill or decode), stock model against plan.

    Attributes:
        dense_s: Median seconds of the stock model: of one prefill, or of one decoded token.
        plan_s: The same under the plan.
        flops_ratio: FLOPs of the plan over those of the stock model, as dispatched, decoder layers.
        time_ratio: Median over pairs of plan time over stock time.
        low: Lower quartile of those pairs.
        high: Upper quartile of those pairs.
        efficiency: ``flops_ratio / time_ratio``.
        captured: ``(1 - time_ratio) / (1 - flops_ratio)``; None where no FLOPs were to be saved.
        dense_gflops_per_s: Rate the stock model ran at.
        plan_gflops_per_s: Rate the plan ran at.
        noise: Whether ``captured`` says nothing: too few pairs, or they differ by as much as was promised.
    """

    dense_s: float
    plan_s: float
    flops_ratio: float
    time_ratio: float
    low: float
    high: float
    efficiency: float
    captured: float | None
    dense_gflops_per_s: float
    plan_gflops_per_s: float
    noise: bool = False

    @classmethod
    def of(
        cls, dense: Sequence[float], plan: Sequence[float], dense_flops: float, plan_flops: float
    ) -> Phase:
        """Compares paired seconds."""
        pairs = PairedRuns.of(dense, plan)
        share = plan_flops / dense_flops
        return cls(
            dense_s=pairs.dense,
            plan_s=pairs.plan,
            flops_ratio=share,
            time_ratio=pairs.ratio,
            low=pairs.low,
            high=pairs.high,
            efficiency=share / pairs.ratio,
            captured=None if abs(1 - share) < 1e-9 else (1 - pairs.ratio) / (1 - share),
            dense_gflops_per_s=dense_flops / pairs.dense / 1e9,
            plan_gflops_per_s=plan_flops / pairs.plan / 1e9,
            noise=len(dense) < FEWEST_PAIRS or is_noise(pairs.low, pairs.high, share),
        )


@dataclass(frozen=True)
class Usage:
    """What one side of the comparison took.

    Attributes:
        ttft_s: Median seconds to the first token: decoder prefill, without the vision tower.
        total_s: Median seconds of prefill and all new tokens.
        tokens_per_s: New tokens of the whole batch per second of ``total_s``.
        peak_memory_bytes: Weights, plus the most that a prefill allocated at once (its KV cache included).
        activation_bytes: That most alone.
        kv_bytes: KV cache after the prefill, read off the cache.
    """

    ttft_s: float
    total_s: float
    tokens_per_s: float
    peak_memory_bytes: int
    activation_bytes: int
    kv_bytes: int


@dataclass(frozen=True)
class Bench:
    """Result of ``bench``.

    Attributes:
        name: What was measured.
        plan: The plan as asked for.
        resolved: The plan with its layers.
        layers: Decoder layers that ran.
        depth: Decoder layers of the model it stands for.
        weights: ``"random"`` or ``"real"``.
        batch: Samples that ran together.
        visual: Visual rows per sample.
        stock_visual: Those of the stock model; others than ``visual`` for a Skip-Vision model alone.
        text: Text rows per sample.
        new_tokens: Tokens generated per sample.
        warmup: Runs of each side before the timing.
        repeats: Timed pairs.
        prefill: The prefill.
        decode: One decoded token, or None where only one token was asked for.
        dense: What the stock model took.
        planned: What the plan took.
        total_ratio: Median over pairs of total plan time over total stock time.
        kv_ratio: KV bytes of the plan over those of the stock model.
        memory_source: How peak memory was taken.
        vision_s: Seconds of the vision tower and projector for one image; None with random weights.
        profile: Per-operator times of both sides, if asked for.
        roofline: Least prefill times on this device and the rates they follow from, if asked for.
        provenance: Command, versions, device, date.
        vision_made_up: Whether the plan looks at the vision tower and was given made-up numbers to look at.
        plan_vision_s: As ``vision_s``, under the plan: it may look, merge, or be given a smaller picture.
        vision_rows: Rows of the picture that was timed; the processor may allow no other.
        whole: FLOPs from pixels to the first token (``saccade.plans.bill.Bill``); None where not known.
        predicted: By device, predicted seconds of the same prefills there: ``dense_s``, ``plan_s``,
            ``time_ratio``; None where none was asked for.
    """

    name: str
    plan: str
    resolved: str
    layers: int
    depth: int
    weights: str
    batch: int
    visual: int
    stock_visual: int
    text: int
    new_tokens: int
    warmup: int
    repeats: int
    prefill: Phase
    decode: Phase | None
    dense: Usage
    planned: Usage
    total_ratio: float
    kv_ratio: float
    memory_source: str
    vision_s: float | None
    profile: list[dict[str, Any]] | None
    roofline: dict[str, Any] | None
    provenance: dict[str, Any]
    vision_made_up: bool = False
    plan_vision_s: float | None = None
    vision_rows: int | None = None
    whole: dict[str, Any] | None = None

    predicted: dict[str, dict[str, float]] | None = None

    @property
    def whole_time_ratio(self) -> float | None:
        """Seconds to the first token under the plan over those of the stock model, features included."""
        if self.vision_s is None or self.plan_vision_s is None:
            return None
        stock = self.batch * self.vision_s + self.dense.ttft_s
        return (self.batch * self.plan_vision_s + self.planned.ttft_s) / stock

    @property
    def is_slower(self) -> bool:
        """Whether the plan's prefill took longer than the stock model's, beyond the spread of the pairs."""
        return self.prefill.low > 1

    @property
    def verdict(self) -> str:
        """One sentence: faster, slower, or no difference that these runs can tell."""
        p = self.prefill
        spread = f"quartiles {p.low:.3f}-{p.high:.3f} of {self.repeats} pairs"
        share = f"prefill takes {p.time_ratio:.3f} of the stock model's time ({spread})"
        if self.resolved == "dense":
            return f"attached without a plan: {share}"
        if self.is_slower:
            return f"this plan is SLOWER here: {share}"
        if p.high < 1:
            return share
        return f"no difference that these runs can tell: prefill ratio {p.time_ratio:.3f} ({spread})"

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary for JSON; the prefill's ratios and the plan's usage also stand on top."""
        top = {
            key: getattr(self.prefill, key) for key in ("flops_ratio", "time_ratio", "efficiency", "captured")
        }
        top |= {"ttft_s": self.planned.ttft_s, "tokens_per_s": self.planned.tokens_per_s}
        top |= {"peak_memory_bytes": self.planned.peak_memory_bytes, "slower": self.is_slower}
        top["vision_ms"] = None if self.vision_s is None else self.vision_s * 1e3
        top["whole_time_ratio"] = self.whole_time_ratio
        return asdict(self) | top
