"""The theory of Skip-Vision (arXiv 2503.21817, supplement, eq. 14-31): as printed, and corrected (pure).

``mode="paper"`` is always the printed form, kept so that it can be shown to fail; other modes are corrections
that hold, with the reason in their docstring. Layers are numbered from 0 here, from 1 in the paper.

Shape letters: S skipped rows, D hidden width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

SLOPES = {"relu": 1.0, "silu": 1.09984, "gelu": 1.12891}
"""Largest slope of an activation, rounded up: above 1, so none of the last two is 1-Lipschitz."""

AttentionMode = Literal["paper", "local"]
FfnMode = Literal["paper", "gelu", "swiglu"]
TotalMode = Literal["paper", "index_fixed", "residual"]
KlMode = Literal["paper", "categorical_l2", "categorical_range"]


@dataclass(frozen=True)
class SkipError:
    """What one layer leaves out of the residual stream.

    Attributes:
        mean: Mean norm of a skipped row's FFN output.
        max: Largest of them.
        total: Frobenius norm over all skipped rows.
    """

    mean: float
    max: float
    total: float


def skip_error(output_SD: torch.Tensor) -> SkipError:
    """Errors of skipping the FFN at some rows (eq. 14-16).

    Args:
        output_SD: FFN outputs of the skipped rows, ``FFN(norm(a))``: the paper leaves the norm out.
    """
    norms_S = output_SD.double().norm(dim=-1)
    if not len(norms_S):
        return SkipError(0.0, 0.0, 0.0)
    return SkipError(float(norms_S.mean()), float(norms_S.max()), float(norms_S.norm()))


def lipschitz_rmsnorm(gain: float, rms: float, other: float | None = None) -> float:
    """Lipschitz constant of an RMS norm, row by row.

    At one point it is ``gain / rms``; between two points ``2 gain / (rms + other)`` (Dunkl and Williams 1964,
    with the epsilon as a further coordinate that does not change). Anywhere at most ``gain / sqrt(epsilon)``.

    Args:
        gain: Largest absolute gain of a channel.
        rms: Root mean square of the row, epsilon included.
        other: That of the other end, if the constant between two points is wanted.

    Raises:
        ValueError: If a root mean square is not positive.
    """
    if rms <= 0 or (other is not None and other <= 0):
        raise ValueError(f"a root mean square with its epsilon is positive, got {rms} and {other}")
    return 2 * gain / (rms + (rms if other is None else other))


def lipschitz_attention(
    query: float,
    key: float,
    value: float,
    width: int,
    mode: AttentionMode = "local",
    *,
    weights: float | None = None,
    states: float | None = None,
) -> float:
    """Lipschitz constant of one head of self-attention.

    ``paper`` (eq. 19, 23): ``query key value / sqrt(width)``. It is no bound: scores are quadratic in the
    states, and the values change too (``W_Q = 0`` makes it 0). ``local``: at the states X, to first order,
    ``value (norm2(A) + query key norm2(X)^2 / sqrt(width))``; a causal mask leaves it valid.

    Args:
        query: Spectral norm of the head's query weights.
        key: Of its key weights.
        value: Of its value weights.
        width: Head width.
        mode: Which form.
        weights: For ``local``: spectral norm of the attention map A, at most the root of its rows.
        states: For ``local``: spectral norm of the normed states X; their Frobenius norm with rotary
            positions, which turn each row by itself.

    Raises:
        ValueError: If the mode is unknown, a norm is negative, or ``local`` lacks its norms.
    """
    _sizes(query=query, key=key, value=value, weights=weights, states=states)
    if width < 1:
        raise ValueError(f"a head has a width of 1 at least, got {width}")
    if mode == "paper":
        return query * key * value / math.sqrt(width)
    if mode != "local":
        raise ValueError(f"mode is paper or local, got {mode!r}")
    if weights is None or states is None:
        raise ValueError("the local bound needs the norms of the attention map and of the states")
    return value * (weights + query * key * states**2 / math.sqrt(width))


def lipschitz_attention_between(
    *,
    query: float,
    key: float,
    value: float,
    scale: float,
    weights: float,
    queries: float,
    keys: float,
    values: float,
) -> float:
    """Lipschitz constant of one head between two inputs, of any distance.

    From ``A'V' - AV = A'(V' - V) + (A' - A)V`` and a softmax whose slope is at most a half. With both inputs
    the same it is the local bound, sharper for knowing the sizes of Q, K and V, and right with biases.

    Args:
        query: Spectral norm of the head's query weights.
        key: Of its key weights.
        value: Of its value weights.
        scale: What scores are multiplied by.
        weights: Spectral norm of the attention map of one input (A').
        queries: Of its rotated queries (Q').
        keys: Of the rotated keys of the other input (K).
        values: Of the values of the other input (V).
    """
    return value * weights + 0.5 * scale * (queries * key + query * keys) * values


def joint_heads(output: float, heads: Sequence[float]) -> float:
    """Lipschitz constant of all heads together: ``output`` is the spectral norm of the output projection."""
    return output * math.sqrt(math.fsum(head * head for head in heads))


def lipschitz_ffn(
    up: float,
    down: float,
    mode: FfnMode = "swiglu",
    *,
    gate: float | None = None,
    radius: float | None = None,
    slope: float = SLOPES["silu"],
) -> float:
    """Lipschitz constant of an FFN.

    ``paper`` (eq. 20, 25): ``up down``, which takes the activation for 1-Lipschitz and the FFN for two
    matrices. ``gelu``: the same times GELU's largest slope. ``swiglu``: the product of gate and up branch
    is quadratic, so there is a constant only for inputs of norm up to a radius:
    ``down gate up radius (slope + 1)``.

    Args:
        up: Spectral norm of the first matrix.
        down: Of the last.
        mode: Which form.
        gate: For ``swiglu``: that of the gate's matrix.
        radius: For ``swiglu``: largest norm of an input row.
        slope: For ``swiglu``: largest slope of the gate's activation, which is at most its argument in size.

    Raises:
        ValueError: If the mode is unknown, a norm is negative, or ``swiglu`` lacks its gate or radius.
    """
    _sizes(up=up, down=down, gate=gate, radius=radius)
    if mode == "paper":
        return up * down
    if mode == "gelu":
        return SLOPES["gelu"] * up * down
    if mode != "swiglu":
        raise ValueError(f"mode is paper, gelu or swiglu, got {mode!r}")
    if gate is None or radius is None:
        raise ValueError("the SwiGLU bound needs the gate's norm and the radius of the inputs")
    return down * gate * up * radius * (slope + 1)


def propagate(
    error: float,
    attention: float,
    ffn: float,
    skip: float,
    mode: Literal["paper", "residual"] = "residual",
    *,
    unasked: float = 0.0,
) -> float:
    """Error after a layer from the error before it.

    ``paper`` (eq. 17): ``(LA + LF) E + skip``, the constants of the branches without the residual stream that
    both are added to. ``residual``: ``(1 + LF) ((1 + LA) E + unasked) + skip``, for E over the whole sequence
    and the skipped FFN outputs taken on the unskipped forward.

    Args:
        error: E before the layer.
        attention: LA of the layer, its norm included.
        ffn: LF of the layer, its norm included.
        skip: What the layer leaves out of its FFN.
        mode: Which form.
        unasked: For ``residual``: what it leaves out of its attention output; ``paper`` has no such term.
    """
    if mode == "paper":
        return (attention + ffn) * error + skip
    if mode != "residual":
        raise ValueError(f"mode is paper or residual, got {mode!r}")
    return (1 + ffn) * ((1 + attention) * error + unasked) + skip


def total_bound(
    skips: Sequence[float],
    attention: Sequence[float],
    ffn: Sequence[float],
    mode: TotalMode = "residual",
    *,
    unasked: Sequence[float] | None = None,
) -> float:
    """Error after the last layer (eq. 18).

    ``paper``: as printed, the errors of layer l multiplied by the constants of layers 2 .. L-l+1.
    ``index_fixed``: by those of the layers l+1 .. L that follow, as eq. 17 says; still without residuals.
    ``residual``: eq. 17 with residuals, which holds; it grows exponentially, so it is a worst case only.

    Args:
        skips: What each layer leaves out of its FFN.
        attention: LA of each layer.
        ffn: LF of each layer.
        mode: Which form.
        unasked: For ``residual``: what each layer leaves out of its attention output; nothing if omitted.

    Returns:
        The bound; infinity beyond the range of a double.

    Raises:
        ValueError: If the mode is unknown, a number is negative, or the sequences differ in length.
    """
    depth = len(skips)
    unasked = [0.0] * depth if unasked is None else unasked
    if not len(attention) == len(ffn) == len(unasked) == depth:
        raise ValueError(
            f"{depth} skip errors, but constants of {len(attention)} and {len(ffn)} layers, and attention "
            f"left out of {len(unasked)}"
        )
    series_of = {
        "skip error": skips,
        "attention constant": attention,
        "FFN constant": ffn,
        "unasked": unasked,
    }
    for name, series in series_of.items():
        _sizes(**{f"{name} of layer {n}": number for n, number in enumerate(series)})
    if mode not in ("paper", "index_fixed", "residual"):
        raise ValueError(f"mode is paper, index_fixed or residual, got {mode!r}")
    if mode == "paper":
        factors = [a + f for a, f in zip(attention, ffn, strict=True)]
        # A layer that leaves nothing out adds nothing, even where the product is beyond a double.
        return math.fsum(skip * math.prod(factors[1 : depth - n]) for n, skip in enumerate(skips) if skip > 0)
    step: Literal["paper", "residual"] = "paper" if mode == "index_fixed" else "residual"
    error = 0.0
    for a, f, skip, left in zip(attention, ffn, skips, unasked, strict=True):
        error = propagate(error, a, f, skip, step, unasked=left)
    return error


def geometric_bound(skip: float, gamma: float, layers: int | None = None) -> float:
    """Error if every layer adds ``skip`` and multiplies what came before by ``gamma`` (eq. 26).

    Args:
        skip: What each layer leaves out.
        gamma: Factor of each layer. Printed ``LA + LF``; with residuals ``(1 + LA)(1 + LF)``, at least 1,
            so that the limit "bounded if gamma < 1" never applies to a residual network.
        layers: How many; the limit of infinitely many if omitted.

    Raises:
        ValueError: If a number is negative.
    """
    _sizes(skip=skip, gamma=gamma, layers=layers)
    if skip == 0 or layers == 0:
        return 0.0
    if layers is None:
        return skip / (1 - gamma) if gamma < 1 else math.inf
    if gamma == 1:
        return skip * layers
    if gamma == 0:
        return skip
    power = layers * math.log(gamma)
    return skip * math.expm1(power) / (gamma - 1) if power < 709 else math.inf


def kl_bound(error: float, mode: KlMode = "categorical_l2", variance: float | None = None) -> float:
    """KL divergence, in nats, between next-token distributions.

    ``paper`` (eq. 27, 30; eq. 31 with ``eps_sim`` added to the error): ``error^2 / (2 variance)``, the
    divergence of Gaussians of equal variance. Next-token distributions are categorical, the error lives in
    hidden space, and nothing ties the "variance of the logits" to a model. ``categorical_l2``:
    ``error^2 / 4`` for the norm of the difference of logits. ``categorical_range``: ``error^2 / 8`` for its
    largest entry less its smallest. Both hold in either direction.

    Args:
        error: Hidden error, norm, or range, by mode.
        mode: Which form.
        variance: For ``paper``.

    Raises:
        ValueError: If the mode is unknown, the error negative, or ``paper`` has no positive variance.
    """
    _sizes(error=error)
    divisors = {"categorical_l2": 4.0, "categorical_range": 8.0}
    if mode == "paper":
        if variance is None or not variance > 0:
            raise ValueError(f"the printed bound needs a positive variance, got {variance}")
        return error * error / (2 * variance)
    if mode not in divisors:
        raise ValueError(f"mode is paper, categorical_l2 or categorical_range, got {mode!r}")
    return error * error / divisors[mode]


def kl_gaussian(distance: float, variance: float, other: float | None = None, width: int = 1) -> float:
    """KL divergence, in nats, of two isotropic Gaussians (eq. 28-29): the second is what it is taken from.

    Args:
        distance: Norm of the difference of the means.
        variance: Of every coordinate of the first.
        other: Of the second; the same if omitted, which leaves eq. 27: ``distance^2 / (2 variance)``.
        width: Number of coordinates.

    Raises:
        ValueError: If a variance is not positive, a distance negative, or there is no coordinate.
    """
    other = variance if other is None else other
    _sizes(distance=distance)
    if not (variance > 0 and other > 0 and width >= 1):
        raise ValueError(f"variances and widths are positive, got {variance}, {other} and {width}")
    ratio = variance / other
    return 0.5 * (width * (ratio - 1 - math.log(ratio)) + distance * distance / other)


def eps_sim(cosine: float, norm: float = 1.0, other: float | None = None) -> float:
    """Distance of two vectors that merging takes for one (in eq. 31 only ``O(sqrt(1 - cosine))``): exact.

    Args:
        cosine: Their cosine similarity.
        norm: Norm of the first.
        other: Norm of the second; the same if omitted, which gives ``norm sqrt(2 (1 - cosine))``.

    Raises:
        ValueError: If the cosine is not in [-1, 1] or a norm is negative.
    """
    other = norm if other is None else other
    _sizes(norm=norm, other=other)
    if not -1 <= cosine <= 1:
        raise ValueError(f"a cosine lies in [-1, 1], got {cosine}")
    return math.sqrt(max((norm - other) ** 2 + 2 * norm * other * (1 - cosine), 0.0))


def _sizes(**numbers: float | None) -> None:
    """Refuses what is no size: a negative number, or none at all."""
    for name, number in numbers.items():
        if number is not None and not number >= 0:
            raise ValueError(f"{name} is a size, so not negative, got {number}")
