"""Spectral norms by power iteration in float32: of matrices, and of the Jacobian of a function (pure).

Shape letters: M rows, N columns, R vectors that are iterated together; leading axes are a batch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

VECTORS = 8
"""Vectors iterated together: what decides the speed is the gap behind all of them, not behind the first."""


def spectral_norm(matrix_MN: torch.Tensor, tolerance: float = 1e-6, limit: int = 500) -> torch.Tensor:
    """Largest singular value, by block power iteration on the Gram matrix.

    Args:
        matrix_MN: (..., M, N), any floating-point type.
        tolerance: Relative change of the estimate at which to stop, twice in a row.
        limit: Iterations at most.

    Returns:
        (...), float32. Power iteration approaches the norm from below.

    Raises:
        ValueError: If an entry is not finite.
    """
    matrix = matrix_MN.detach().float()
    if matrix.numel() == 0:
        return matrix.new_zeros(matrix.shape[:-2])
    if matrix.shape[-2] < matrix.shape[-1]:
        matrix = matrix.mT
    scale = matrix.abs().amax((-2, -1), keepdim=True)
    if not bool(torch.isfinite(scale).all()):
        raise ValueError("a matrix has entries that are not finite, so it has no spectral norm")
    matrix = matrix / scale.clamp_min(torch.finfo(torch.float32).tiny)
    columns = matrix.shape[-1]
    draw = torch.Generator().manual_seed(0)
    start_NR = torch.randn(columns, min(VECTORS, columns), generator=draw).to(matrix.device)
    vectors = start_NR.expand(*matrix.shape[:-2], *start_NR.shape)
    before, still = None, 0
    for _ in range(limit):
        image = matrix @ vectors
        estimate = torch.linalg.eigvalsh((image.mT @ image).double())[..., -1].clamp_min(0).sqrt()
        # The first vectors are not orthonormal yet, so the first estimate says nothing.
        if before is not None:
            still = still + 1 if bool(((estimate - before).abs() <= tolerance * estimate).all()) else 0
            if still == 2:
                break
        vectors = torch.linalg.qr(matrix.mT @ image).Q
        before = estimate
    return (estimate * scale[..., 0, 0]).float()


def jacobian_norm(
    function: Callable[[torch.Tensor], torch.Tensor],
    x: torch.Tensor,
    tolerance: float = 1e-3,
    limit: int = 60,
) -> float:
    """Largest singular value of a function's Jacobian at a point: its local Lipschitz constant there.

    Args:
        function: Differentiable, of one tensor.
        x: The point.
        tolerance: Relative change of the estimate at which to stop, twice in a row.
        limit: Iterations at most.

    Returns:
        The norm (both sides Euclidean over all entries), approached from below.
    """
    draw = torch.Generator().manual_seed(0)
    vector = torch.randn(x.shape, generator=draw).to(x)
    pull = torch.func.vjp(function, x)[1]
    before, still, estimate = 0.0, 0, 0.0
    for _ in range(limit):
        length = vector.norm()
        if not bool(length > 0):
            return 0.0
        vector = vector / length
        pushed = torch.func.jvp(function, (x,), (vector,))[1]
        estimate = float(pushed.float().norm())
        still = still + 1 if abs(estimate - before) <= tolerance * estimate else 0
        if still == 2:
            break
        (vector,) = pull(pushed)
        before = estimate
    return estimate
