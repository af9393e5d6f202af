"""What torch dispatches is counted, attention on the CPU among it, forward and backward."""

from __future__ import annotations

import pytest
import torch

from saccade.measure.counter import dispatched_flops

B, H, Q, N, W = 2, 4, 5, 7, 16


@pytest.mark.parametrize("kept", [H, 2, 1])
@pytest.mark.parametrize(("grad", "passes"), [(False, 2), (True, 7)])
def test_attention_is_counted_by_its_products(grad, passes, kept):
    """Scores and mixing; backward the scores again, and two products for each of the two."""
    heads = ((H, Q), (kept, N), (kept, N))
    q, k, v = (torch.randn(B, h, rows, W, requires_grad=grad) for h, rows in heads)

    def run() -> None:
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=kept < H)
        if grad:
            out.sum().backward()

    assert dispatched_flops(run) == passes * 2 * B * H * Q * N * W


def test_a_product_and_its_gradients_are_counted():
    layer, x = torch.nn.Linear(4, 6, bias=False), torch.randn(3, 4, requires_grad=True)
    assert dispatched_flops(lambda: layer(x)) == 2 * 3 * 4 * 6
    assert dispatched_flops(lambda: layer(x).sum().backward()) == 3 * 2 * 3 * 4 * 6
