"""Muon for all matrices of a shape at once, in float32 where a processor has no bfloat16.

torch's own computes in bfloat16, which many processors do 50 times slower, and matrix by matrix, which
keeps an accelerator waiting.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch

COEFFICIENTS = (3.4445, -4.775, 2.0315)
"""Of the quintic iteration, as in torch.optim.Muon (K. Jordan, 2024)."""


def orthogonal(matrices: torch.Tensor, steps: int = 5, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Each of a stack of matrices with its singular values brought near 1 (Newton-Schulz, in `dtype`)."""
    a, b, c = COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = (x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-7)).to(dtype)
    for _ in range(steps):
        square = x @ x.mT
        x = torch.baddbmm(a * x, torch.baddbmm(b * square, square, square, alpha=c), x)
    return (x.mT if tall else x).to(matrices.dtype)


class Muon(torch.optim.Muon):
    """`torch.optim.Muon` with `adjust_lr_fn="match_rms_adamw"`, matrices of a shape at a time.

    Attributes:
        dtype: What it turns matrices in; bfloat16 is four times faster where a device has it.
    """

    def __init__(self, params: Any, dtype: torch.dtype = torch.float32, **options: Any) -> None:
        """Take what `torch.optim.Muon` takes, and the number format."""
        super().__init__(params, **options)
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure=None) -> None:  # type: ignore[override]
        """One step; no closure is taken."""
        for group in self.param_groups:
            momentum, rate = group["momentum"], group["lr"]
            alike: dict[torch.Size, list[torch.Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike[parameter.shape].append(parameter)
            for shape, parameters in alike.items():
                updates = []
                for parameter in parameters:
                    state = self.state[parameter]
                    if not state:
                        state["momentum_buffer"] = torch.zeros_like(parameter)
                    held = state["momentum_buffer"].lerp_(parameter.grad, 1 - momentum)
                    updates.append(parameter.grad.lerp(held, momentum) if group["nesterov"] else held)
                turned = orthogonal(torch.stack(updates), group["ns_steps"], self.dtype)
                scale = rate * 0.2 * max(shape) ** 0.5
                torch._foreach_mul_(parameters, 1 - rate * group["weight_decay"])
                torch._foreach_add_(parameters, list(turned), alpha=-scale)
