"""Models in float64: nothing on the way falls back to float32, and gradients are what finite differences say.

Shape letters: B batch, N rows.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

from saccade import apply
from support.looking import evidence_of
from support.models import FACTORIES, SQUARE, TALL

SAMPLES = [[3, SQUARE, 5], [2, TALL, 1, SQUARE, 7]]
PLANS = [
    "fastv(layer=2,keep=0.5)", "pyramiddrop(layers=1/2,keep=0.5)", "fitprune(layers=1/2,left=0.6/0.3)",
    "sparsevlm(layers=2/3,tokens=0.6)",
    "sparsevlm_plus(layers=2/3,tokens=0.6,heads=3)", "dart(layer=2,keep=0.5,pivots=1)", "fastervlm(keep=6)",
    "vispruner(keep=6)", "visionzip(dominant=4,contextual=3)", "prumerge(keep=6)", "prumerge_plus",
    "divprune(keep=6)", "tome(r=2)", "token_merge(keep=6)", "token_merge(keep=5,rule=mean)", "pool(factor=3)",
    "vskip(layers=1-2,reading=mask)",
]  # fmt: skip
MERGING = [
    "sparsevlm(layers=2/3,tokens=0.6)", "visionzip(dominant=4,contextual=3)", "prumerge(keep=6)", "prumerge",
    "prumerge_plus(keep=6)", "tome(r=2)", "token_merge(keep=6)", "token_merge(keep=5,rule=mean)",
    "pool(factor=3)",
]  # fmt: skip


@pytest.mark.parametrize("spec", PLANS)
@pytest.mark.parametrize("name", ["llava-llama", "llava_next-llama"])
@torch.no_grad()
def test_no_number_on_the_way_is_rounded_to_float32(monkeypatch, name, spec):
    """Every number that a method is given or makes has the model's own precision."""
    given = evidence_of(spec, monkeypatch) if not spec.startswith("vskip") else []
    tiny = FACTORIES[name](layers=4, dtype=torch.float64)
    inputs = tiny.batch(SAMPLES)
    with apply(tiny.model, spec) as handle, handle.tracing() as traces:
        logits = tiny.model(**inputs).logits
    assert logits.dtype == torch.float64 and bool(logits.isfinite().all())
    for evidence in given:
        for part in (evidence.weights_BHRN, evidence.keys_BGNW, evidence.hidden_BND):
            assert part is None or part.dtype == torch.float64
        if evidence.vision is not None:
            for part in ("attention_BN", "single_BN", "keys_BNV", "features_BNV"):
                assert getattr(evidence.vision, part).dtype == torch.float64
    for cut in traces[0].cuts:
        # Weights of means are thirds and such, which float32 would have rounded.
        if cut.sources_BNN is not None and "tome" not in spec:
            assert cut.sources_BNN.dtype == torch.float64


@pytest.mark.parametrize("spec", PLANS)
@torch.no_grad()
def test_float32_is_as_near_to_float64_as_its_rounding(spec):
    """The same weights: rows alike, and logits a few times float32's rounding apart."""
    found = []
    for dtype in (torch.float64, torch.float32):
        tiny = FACTORIES["llava-llama"](layers=4)
        tiny.model.to(dtype)
        inputs = tiny.batch(SAMPLES)
        with apply(tiny.model, spec) as handle, handle.tracing() as traces:
            logits = tiny.model(**inputs).logits
        found.append((logits[:, -1].double(), traces[0].kept(3)))
    assert found[0][1] == found[1][1]
    torch.testing.assert_close(found[0][0], found[1][0], rtol=0, atol=1e-4)


def normed(module: Any, x: torch.Tensor) -> torch.Tensor:
    """A norm that computes in the type of its input."""
    return module.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + module.variance_epsilon)


def slope(spec: str, name: str, checkpointing: bool) -> tuple[float, float]:
    """Change of a sum of logits along a direction of pixels: by autograd, and by finite differences."""
    tiny = FACTORIES[name](layers=4, dtype=torch.float64)
    model: Any = tiny.model.train()
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            # The stock ones compute in float32, which differences of a millionth do not survive.
            module.forward = functools.partial(normed, module)
    if checkpointing:
        kind = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
        options = {f"{kind}_checkpointing_kwargs": {"use_reentrant": False}}
        getattr(model, f"{kind}_checkpointing_enable")(**options)
    inputs = tiny.batch(SAMPLES)
    draw = torch.Generator().manual_seed(3)
    pixels = inputs.pop("pixel_values")
    along = torch.randn(pixels.shape, generator=draw, dtype=torch.float64)

    def value(x: torch.Tensor) -> torch.Tensor:
        logits = model(**inputs, pixel_values=x, use_cache=False).logits[:, -1]
        weights = torch.randn(logits.shape, generator=draw.manual_seed(4), dtype=torch.float64)
        return (logits * weights).sum()

    with apply(model, spec):
        x = pixels.clone().requires_grad_()
        value(x).backward()
        assert x.grad is not None
        by_autograd = float((x.grad * along).sum())
        with torch.no_grad():
            step = 1e-6
            ends = [float(value(pixels + sign * step * along)) for sign in (1, -1)]
    return by_autograd, (ends[0] - ends[1]) / (2 * step)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("spec", MERGING)
def test_gradients_flow_through_all_that_rows_are_made_of(spec, checkpointing):
    mine, measured = slope(spec, "llava-llama", checkpointing)
    assert mine == pytest.approx(measured, rel=1e-5)


@pytest.mark.parametrize("spec", ["prumerge(keep=6)", "visionzip(dominant=2,contextual=2)"])
def test_gradients_flow_through_tiles_too(spec):
    mine, measured = slope(spec, "llava_next-llama", checkpointing=False)
    assert mine == pytest.approx(measured, rel=1e-5)
