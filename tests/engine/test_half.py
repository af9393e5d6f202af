"""Half precision: the rows that a model in bfloat16 or float16 keeps are those that it keeps in float32.

The decoder has key biases like Qwen2's (a constant part of queries and keys whose product is thousands, past
what float16 holds and bfloat16 tells apart), its tower too, and features of the tower are a thousand times as
large as drawn, so that their squares are infinite in float16.

Shape letters: B batch, N rows.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import cache
from typing import Any

import pytest
import torch

from saccade import Plan, apply
from saccade.core.stages import Evidence
from saccade.methods.fitprune import weighed
from support.looking import evidence_of
from support.models import FACTORIES, SQUARE, TALL, Tiny
from support.reference import gap

SAMPLES = [[3, SQUARE, 5], [2, TALL, 1, SQUARE, 7]]
HALVES = [torch.bfloat16, torch.float16]
SCORED = {
    "fastv(layer=2,keep=0.5)": lambda by, e: e.weights_BHRN.mean(1)[:, 0],
    "pyramiddrop(layers=1/2,keep=0.5)": lambda by, e: e.weights_BHRN.mean(1)[:, 0],
    "fitprune(layers=1/2,left=0.6/0.3)": lambda by, e: weighed(e).prod(1),
    "sparsevlm(layers=2/3,tokens=0.6,recycle=false)": lambda by, e: by.scores(e),
    "sparsevlm_plus(layers=2/3,tokens=0.6,heads=3)": lambda by, e: by.scores(e),
    "fastervlm(keep=6)": lambda by, e: e.vision.attention_BN,
    "vispruner(keep=6,important=1)": lambda by, e: e.vision.attention_BN,
    "prumerge(keep=6)": lambda by, e: e.vision.single_BN,
}
"""Methods that keep the highest scores, and what these are."""
OTHERS = [
    "sparsevlm(layers=2/3,tokens=0.6)", "dart(layer=2,keep=0.5,pivots=1)", "vispruner(keep=6)",
    "visionzip(dominant=5,contextual=2)", "prumerge", "prumerge_plus(keep=6)", "divprune(keep=6)",
    "cdpruner(keep=6)", "hiprune(keep=6,tower_layer=1)",
    "tome(r=3)", "token_merge(keep=6)", "token_merge(keep=6,rule=mean)", "pool(factor=2)",
    "vskip(layers=1-2,reading=mask)",
]  # fmt: skip


@cache
def loud(dtype: torch.dtype) -> Tiny:
    """A model whose scores are small differences of large numbers."""
    tiny = FACTORIES["llava-qwen2"](layers=4)
    decoder, tower = tiny.model.model.language_model, tiny.model.model.vision_tower
    # The constant part stands in channels that do not turn.
    decoder.rotary_emb.inv_freq[-1] = 0
    with torch.no_grad():
        for layers, heads, constant in ((decoder.layers, 16, [7, 15]), (tower.encoder.layers, 16, [7])):
            for layer in layers:
                for linear in (layer.self_attn.q_proj, layer.self_attn.k_proj):
                    linear.weight.unflatten(0, (-1, heads))[:, constant] = 0
                    linear.bias.view(-1, heads)[:, constant] = 200.0
        tower.pre_layrnorm.weight *= 1000
        tower.pre_layrnorm.bias *= 1000
    tiny.model.to(dtype)
    return tiny


@torch.no_grad()
def run(dtype: torch.dtype, spec: str | None, autocast: bool = False) -> tuple[torch.Tensor, list[set[int]]]:
    """Logits of the last rows, and the visual rows of every sample that reach the last layer."""
    tiny = loud(dtype)
    inputs = tiny.batch(SAMPLES)
    around = torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext()
    with around, apply(tiny.model, spec or Plan()) as handle, handle.tracing() as traces:
        logits = tiny.model(**inputs).logits[:, -1].float()
    return logits, [set(rows) for rows in traces[0].kept(3)] if traces else []


@torch.no_grad()
def features(dtype: torch.dtype) -> torch.Tensor:
    tiny = loud(dtype)
    pixels = tiny.batch(SAMPLES)["pixel_values"]
    return tiny.model.model.vision_tower(pixels).last_hidden_state


def test_the_model_is_as_loud_as_it_should_be():
    sizes = features(torch.float16)
    assert 1e3 < float(sizes.abs().max()) < 6e4 and not bool(sizes.square().isfinite().all())
    for dtype in HALVES:
        assert gap(run(dtype, None)[0], run(torch.float32, None)[0]) < 0.02


def check_near(
    spec: str, mine: list[set[int]], exact: list[set[int]], given: list[Evidence], by: Any
) -> None:
    """Rows that one keeps and the other does not have float32 scores within a hundredth of each other."""
    for b, (kept, wanted) in enumerate(zip(mine, exact, strict=True)):
        assert len(kept) == len(wanted)
        if kept == wanted:
            continue
        # Later stages build on earlier ones: at one of them the rows must be near.
        worst = []
        for evidence in given:
            scores_N = SCORED[spec](by, evidence)[b]
            least = min(float(scores_N[n]) for n in wanted - kept)
            most = max(float(scores_N[n]) for n in wanted - kept)
            low = min(float(scores_N[n]) for n in kept - wanted)
            worst.append(max(abs(most - low), abs(least - low)) / abs(most))
        assert min(worst) < 0.01, (spec, b, worst)


@pytest.mark.parametrize("dtype", [*HALVES, "autocast"])
@pytest.mark.parametrize("spec", SCORED)
def test_the_best_rows_are_those_of_float32(monkeypatch, spec, dtype):
    given = evidence_of(spec, monkeypatch)
    _, exact = run(torch.float32, spec)
    given = list(given)
    (by,) = Plan.of(spec).resolve(4, {}).methods
    mine = run(torch.float32, spec, autocast=True) if dtype == "autocast" else run(dtype, spec)
    assert bool(mine[0].isfinite().all())
    check_near(spec, mine[1], exact, given, by)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("spec", OTHERS)
def test_what_goes_by_likeness_keeps_them_too(spec, dtype):
    """Near ties may part a row of an image from its like; in float16 none does here."""
    logits, mine = run(dtype, spec)
    exact_logits, exact = run(torch.float32, spec)
    assert bool(logits.isfinite().all())
    for kept, wanted in zip(mine, exact, strict=True):
        assert len(kept) == len(wanted) and len(kept ^ wanted) <= (4 if dtype is torch.bfloat16 else 2)
    if mine == exact and dtype is torch.float16:
        assert gap(logits, exact_logits) < 0.01


@pytest.mark.parametrize("spec", ["fastv(layer=2,keep=0.5)", "sparsevlm_plus(layers=2/3,tokens=0.6,heads=3)"])
def test_scores_are_float32_of_what_the_model_projects(monkeypatch, spec):
    """The weights of a half model are the softmax, in float64, of its own queries and keys."""
    from saccade.engine import decide

    seen: list[tuple] = []
    real = decide.scaled_scores

    def spy(q: torch.Tensor, k: torch.Tensor, scale: float) -> torch.Tensor:
        found = real(q, k, scale)
        seen.append((q, k, scale, found))
        return found

    monkeypatch.setattr(decide, "scaled_scores", spy)
    run(torch.bfloat16, spec)
    for q, k, scale, found in seen:
        assert q.dtype == k.dtype == torch.bfloat16 and found.dtype == torch.float32
        k = k.double().repeat_interleave(q.shape[1] // k.shape[1], dim=1)
        torch.testing.assert_close(
            found.double(), q.double() @ k.transpose(2, 3) * scale, rtol=1e-6, atol=0.02
        )
    assert seen


def test_sums_of_large_rows_stay_finite_in_float16():
    """A contextual row is a sum of two: where that is more than float16 holds, it holds the most it can."""
    from saccade.methods.survivors import mixed

    rows = torch.tensor([[6e4, -6e4, 1.0], [6e4, -6e4, 2.0]], dtype=torch.float16)
    most = torch.finfo(torch.float16).max
    assert mixed(torch.ones(1, 2), rows).tolist() == [[most, -most, 3.0]]
    assert mixed(torch.ones(1, 2), rows.float()).tolist() == [[1.2e5, -1.2e5, 3.0]]


def test_means_of_large_rows_stay_finite_in_float16():
    from saccade.core.merge import mean_merge, token_merge

    rows = torch.full((1, 16, 4), 6e4, dtype=torch.float16)
    for keep in (4, 5):
        assert bool((mean_merge(rows, keep).rows_BKD == 6e4).all())
        assert bool((token_merge(rows, keep).rows_BKD == 6e4).all())
