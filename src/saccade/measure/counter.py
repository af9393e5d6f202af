"""FLOPs that torch dispatches, attention kernels with grouped keys included, on every version and device."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

KERNELS = ("flash_attention_for_cpu", "flash_attention", "efficient_attention", "cudnn_attention")
"""Kernels of ``scaled_dot_product_attention``: older versions of torch miss some, or refuse grouped keys."""


def meter() -> FlopCounterMode:
    """Counts FLOPs (2 per multiply-accumulate) of what is dispatched within it, backward passes included."""
    kernels: dict[Any, Callable[..., int]] = {}
    for name in KERNELS:
        packet = f"_scaled_dot_product_{name}"
        kernels[getattr(torch.ops.aten, packet)] = _forward
        kernels[getattr(torch.ops.aten, f"{packet}_backward")] = _backward
    # Products of rows by the expert each of them is sorted to, which torch's counter does not know.
    kernels[torch.ops.aten._grouped_mm] = _grouped
    if hasattr(torch.ops.transformers, "grouped_mm_fallback"):
        kernels[torch.ops.transformers.grouped_mm_fallback] = _grouped
    for name, count in QUANTISED.items():
        # Registered by bitsandbytes, where it is in use.
        if hasattr(torch.ops.bitsandbytes, name):
            kernels[getattr(torch.ops.bitsandbytes, name)] = count
    return FlopCounterMode(display=False, custom_mapping=kernels)


def dispatched_flops(run: Callable[[], Any]) -> int:
    """FLOPs of everything that a call dispatches (``meter``)."""
    with meter() as counter:
        run()
    return counter.get_total_flops()


def _forward(q: Any, k: Any, v: Any, *args: Any, **kwargs: Any) -> int:
    """Scores, and the mixing of values; shapes are (B, H, rows, width), and grouped keys serve all heads."""
    batch, heads, queries, width = q
    return 2 * batch * heads * queries * k[2] * (width + v[3])


def _grouped(rows: Any, experts: Any, *args: Any, **kwargs: Any) -> int:
    """Sorted rows (S, in) by the matrices of their experts (E, in, out): every row by one of them."""
    return 2 * math.prod(rows) * experts[-1]


def _packed(x: Any, weight: Any, shape: Any, *args: Any, **kwargs: Any) -> int:
    """Rows by a packed matrix of this shape (out, in)."""
    return 2 * math.prod(x) * shape[0]


def _whole(x: Any, weight: Any, *args: Any, **kwargs: Any) -> int:
    """Rows by a matrix (out, in)."""
    return 2 * math.prod(x) * weight[0]


QUANTISED: dict[str, Callable[..., int]] = {
    "gemm_4bit": _packed,
    "gemv_4bit": _packed,
    "int8_linear_matmul": _whole,
    "int8_scaled_mm": _whole,
    "int8_mixed_scaled_mm": lambda x, rows, weight, *args, **kwargs: _whole(rows, weight),
}
"""Matrix products of bitsandbytes, which torch's counter does not know."""


def _backward(out: Any, q: Any, k: Any, v: Any, *args: Any, **kwargs: Any) -> int:
    """Scores once more, gradients of them and of values, then of queries and keys."""
    batch, heads, queries, width = q
    return 2 * batch * heads * queries * k[2] * (3 * width + 2 * v[3])
