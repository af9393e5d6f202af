"""Power iteration against full decompositions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from research.analysis.toys import draw, head, local_constant, norm2, swiglu
from saccade.research.analysis.spectral import jacobian_norm, spectral_norm


@settings(max_examples=40)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 1000), st.floats(-12, 12))
def test_the_spectral_norm_is_the_largest_singular_value(rows, columns, seed, power):
    matrix = draw(seed, (rows, columns))[0].float() * 10**power
    assert float(spectral_norm(matrix)) == pytest.approx(norm2(matrix.double()), rel=1e-4)


def test_a_batch_is_its_single_matrices_and_half_precision_is_upcast():
    batch = torch.randn(3, 2, 20, 30)
    norms = spectral_norm(batch)
    assert norms.shape == (3, 2) and norms.dtype == torch.float32
    torch.testing.assert_close(norms, torch.linalg.matrix_norm(batch, 2), rtol=1e-4, atol=0)
    half = batch.bfloat16()
    torch.testing.assert_close(
        spectral_norm(half), torch.linalg.matrix_norm(half.float(), 2), rtol=1e-4, atol=0
    )


def test_equal_singular_values_and_low_rank_are_no_trouble():
    orthogonal = torch.linalg.qr(torch.randn(50, 50)).Q
    assert float(spectral_norm(orthogonal)) == pytest.approx(1, rel=1e-5)
    one = torch.outer(torch.arange(1.0, 9), torch.ones(20))
    assert float(spectral_norm(one)) == pytest.approx(norm2(one), rel=1e-5)
    assert float(spectral_norm(torch.zeros(4, 5))) == 0


def test_what_has_no_norm_is_refused():
    with pytest.raises(ValueError, match="not finite"):
        spectral_norm(torch.tensor([[1.0, float("nan")]]))


@pytest.mark.parametrize("seed", range(4))
def test_the_jacobian_norm_is_that_of_the_whole_jacobian(seed):
    x, *weights = draw(seed, (5, 6), (6, 4), (6, 4), (6, 4))
    attend = head(*weights, causal=True)
    assert jacobian_norm(attend, x) == pytest.approx(local_constant(attend, x), rel=1e-2)
    x, *weights = draw(seed, (3, 6), (9, 6), (9, 6), (6, 9))
    ffn = swiglu(*weights)
    assert jacobian_norm(ffn, x) == pytest.approx(local_constant(ffn, x), rel=1e-2)


def test_a_constant_has_jacobian_norm_zero():
    assert jacobian_norm(lambda x: x * 0 + 3, torch.ones(4)) == 0
