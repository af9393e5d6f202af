"""Attention of packed rows is that of a mask over all rows, forwards and backwards."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from saccade.research.embedded.attention import packed_attention
from saccade.research.embedded.data import attention_mask

SEGMENTS = torch.tensor([[0, 0, 1, 1, 1, -1], [0, 0, 0, 0, -1, -1]])
PREFIX = 5


def rows(count: int, dtype: torch.dtype) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(2, 3, count, 8, dtype=dtype, requires_grad=True) for _ in range(3)]


@pytest.mark.parametrize("asked", [True, False])
def test_it_is_attention_under_a_mask_over_all_rows(asked) -> None:
    count = PREFIX + SEGMENTS.shape[1] * asked
    mask = attention_mask(SEGMENTS, PREFIX) if asked else None
    whole = torch.full((2, 1, count, count), -1e9, dtype=torch.float64).triu(1)
    if asked:
        whole[:, :, PREFIX:] = mask.double()
    given, other = rows(count, torch.float64), rows(count, torch.float64)
    ours, _ = packed_attention(None, *given, mask, scaling=0.3)
    theirs = F.scaled_dot_product_attention(*other, attn_mask=whole, scale=0.3).transpose(1, 2)
    torch.testing.assert_close(ours, theirs)
    for out in (ours, theirs):
        out.square().sum().backward()
    for a, b in zip(given, other, strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_wide_queries_meet_narrow_values_under_autocast() -> None:
    query, key, value = rows(PREFIX + SEGMENTS.shape[1], torch.float32)
    mask = attention_mask(SEGMENTS, PREFIX)
    exact, _ = packed_attention(None, query, key, value, mask, scaling=0.3)
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = packed_attention(None, query, key, value.bfloat16(), mask, scaling=0.3)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), exact, atol=0.03, rtol=0.03)
