"""What skipping did to one prompt, layer by layer, and every bound of it beside what was measured (pure)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from saccade.research.analysis import bounds
from saccade.research.analysis.checks import Check


@dataclass(frozen=True)
class Multiple:
    """How much something multiplied the drift by.

    Attributes:
        value: Norm of what came out over norm of what went in.
        rounding: How much of it may be rounding: much, where drift is small and numbers are short.
    """

    value: float
    rounding: float


@dataclass(frozen=True)
class LayerDrift:
    """One layer: what was measured, and the constants that bound it.

    Attributes:
        entering: Drift of the states entering it, Frobenius norm over rows.
        leaving: Of those leaving it.
        row_entering: Largest drift of a skipped row entering it.
        row_leaving: Of one leaving it.
        skip: What it leaves out of its FFN, on the unskipped forward.
        unasked: What it leaves out of its attention output, Frobenius norm.
        attention_paper: LA as printed; the norm left out, and the output projection.
        attention_heads: The norm of the heads' Jacobian there, before the output projection.
        attention_local: LA at the unskipped states, corrected; the norm left out.
        attention_true: The Jacobian's norm there.
        attention_between: LA between the two forwards, its norm included.
        attention_gain: How much the attention branch really multiplied the drift by; None where none was.
        ffn_paper: LF as printed; the norm left out.
        ffn_swiglu: LF corrected; the norm left out.
        ffn_true: The Jacobian's norm, largest over rows.
        ffn_between: LF between the two forwards, its norm included.
        ffn_gain: How much the FFN branch really multiplied the drift by, over the rows that pass it.
        norms: Lipschitz constants of the two norms between the forwards.
        norm_gains: How much they really multiplied the drift by.
        rounding: How much of the drift leaving it may be rounding of the residual streams.
    """

    entering: float
    leaving: float
    row_entering: float
    row_leaving: float
    skip: bounds.SkipError
    unasked: float
    attention_paper: float
    attention_heads: float
    attention_local: float
    attention_true: float
    attention_between: float
    attention_gain: Multiple | None
    ffn_paper: float
    ffn_swiglu: float
    ffn_true: float
    ffn_between: float
    ffn_gain: Multiple | None
    norms: tuple[float, float]
    norm_gains: tuple[Multiple | None, Multiple | None]
    rounding: float


@dataclass(frozen=True)
class Drift:
    """What skipping does to one prompt.

    Attributes:
        layers: Every layer.
        logits: Norm of the difference of the last row's logits.
        logits_rounding: How much of it may be rounding.
        logit_range: Largest entry of that difference less its smallest.
        variance: Variance of the unskipped logits over the vocabulary, as the printed KL bound needs one.
        kl: KL(skipped || unskipped) of the next token, in nats.
        last_row: Drift of the last row after the last layer.
        final_norm: Lipschitz constant of the final norm at the last row between the forwards.
        head: Spectral norm of the language-model head.
    """

    layers: tuple[LayerDrift, ...]
    logits: float
    logits_rounding: float
    logit_range: float
    variance: float
    kl: float
    last_row: float
    final_norm: float
    head: float

    @property
    def residual(self) -> list[float]:
        """Bound of the drift after every layer, from the skip errors and constants of the layers up to it."""
        found, error = [], 0.0
        for one in self.layers:
            error = bounds.propagate(
                error, one.attention_between, one.ffn_between, one.skip.total, unasked=one.unasked
            )
            found.append(error)
        return found

    @property
    def printed(self) -> dict[str, float]:
        """Eq. 18 as printed, and with its indices fixed."""
        skips = [one.skip.max for one in self.layers]
        attention, ffn = [one.attention_paper for one in self.layers], [one.ffn_paper for one in self.layers]
        return {mode: bounds.total_bound(skips, attention, ffn, mode) for mode in ("paper", "index_fixed")}

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary: series by layer, and figures of the output."""
        ends = asdict(self)
        rows = ends.pop("layers")
        series = {
            name: [row[name] for row in rows] for name in rows[0] if name not in ("norms", "norm_gains")
        }
        return {"layers": series, "residual": self.residual, **ends}

    def checks(self) -> list[Check]:
        """Every bound beside what was measured."""
        found = [check for number, one in enumerate(self.layers) for check in _layer_checks(number, one)]
        skips = [one.skip.max for one in self.layers]
        depth, final = len(skips), self.layers[-1]
        row, last, slack = final.row_leaving, final.leaving, final.rounding
        total = self.printed
        gamma = max(one.attention_paper + one.ffn_paper for one in self.layers)
        factors = [(1 + one.attention_between) * (1 + one.ffn_between) for one in self.layers]
        left = [one.skip.total + (1 + one.ffn_between) * one.unasked for one in self.layers]
        error = self.residual[-1]
        reach = self.head * self.final_norm
        return [
            *found,
            Check("total_paper", None, total["paper"], row, slack),
            Check("total_index_fixed", None, total["index_fixed"], row, slack),
            Check("total_residual", None, error, last, slack),
            Check("geometric_paper", None, bounds.geometric_bound(max(skips), gamma, depth), row, slack),
            Check(
                "geometric_residual",
                None,
                bounds.geometric_bound(max(left), max(factors), depth),
                last,
                slack,
            ),
            Check("logits", None, reach * self.last_row, self.logits, self.logits_rounding),
            Check("kl_paper", None, bounds.kl_bound(total["paper"], "paper", self.variance), self.kl),
            Check("kl_l2", None, bounds.kl_bound(self.logits), self.kl),
            Check("kl_range", None, bounds.kl_bound(self.logit_range, "categorical_range"), self.kl),
            Check("kl_chain", None, bounds.kl_bound(reach * error), self.kl),
        ]


def _layer_checks(number: int, one: LayerDrift) -> list[Check]:
    printed = bounds.propagate(one.row_entering, one.attention_paper, one.ffn_paper, one.skip.max, "paper")
    residual = bounds.propagate(
        one.entering, one.attention_between, one.ffn_between, one.skip.total, unasked=one.unasked
    )
    found = [
        Check("attention_paper", number, one.attention_paper, one.attention_heads),
        Check("attention_local", number, one.attention_local, one.attention_true),
        Check("ffn_paper", number, one.ffn_paper, one.ffn_true),
        Check("ffn_swiglu", number, one.ffn_swiglu, one.ffn_true),
        Check("step_paper", number, printed, one.row_leaving, one.rounding),
        Check("step_residual", number, residual, one.leaving, one.rounding),
    ]
    gains = [
        ("attention_between", one.attention_between, one.attention_gain),
        ("ffn_between", one.ffn_between, one.ffn_gain),
        *(("rmsnorm", value, gain) for value, gain in zip(one.norms, one.norm_gains, strict=True)),
    ]
    return found + [
        Check(name, number, value, gain.value, gain.rounding)
        for name, value, gain in gains
        if gain is not None
    ]
