"""Generation without a cache: the same tokens, or one line where the decisions would be others.

Shape letters: B batch, N rows.
"""

from __future__ import annotations

import pytest
import torch

from saccade import apply
from saccade.methods import METHODS
from support.models import FACTORIES, SEVERAL_AXES, SQUARE, tiny_llava

SAMPLES = [[3, SQUARE, 5], [4], [2, SQUARE]]
GO = dict(max_new_tokens=5, do_sample=False)
SAME = {
    "vskip": "vskip(layers=1-2)",
    "ffn_skip": "ffn_skip(layers=1)",
    "shortv": "shortv(layers=0,2)",
    "vtw": "vtw(layer=1)",
    "victor": "victor(layer=1,registers=2)",
    "random": "random(layer=1,keep=0.5)",
    "uniform": "uniform(keep=0.5)",
    "divprune": "divprune(keep=0.5)",
    "visionzip": "visionzip(dominant=3,contextual=2)",
    "hiprune": "hiprune(keep=0.5)",
    "pixelprune": "pixelprune(threshold=4.5)",
    "fastervlm": "fastervlm(keep=0.5)",
    "vispruner": "vispruner(keep=0.5)",
    "prumerge": "prumerge(keep=5)",
    "prumerge_plus": "prumerge_plus(keep=8)",
    "pool": "pool(factor=2)",
    "tome": "tome(r=2)",
    "token_merge": "token_merge()",
    "skip_vision": "skip_vision(retained=0.25,split=grid)",
    "resize": "resize(scale=1)",
}
ANEW = {
    "cdpruner": "cdpruner(keep=0.5)",
    "fastv": "fastv(layer=1,keep=0.5)",
    "pyramiddrop": "pyramiddrop(layers=1/2,keep=0.5)",
    "fitprune": "fitprune(layers=1/2,left=0.6/0.3)",
    "sparsevlm": "sparsevlm(tokens=0.4,layers=1/2,recycle=false)",
    "sparsevlm_plus": "sparsevlm_plus(tokens=0.4,layers=1/2)",
    "dart": "dart(layer=1,keep=0.5,pivots=2)",
    "skip_vision": "skip_vision(retained=0.25,split=grid,cache=small)",
}


def test_every_method_is_of_one_kind_or_the_other():
    assert {*SAME, *ANEW} == set(METHODS)


@pytest.mark.share(2)
@pytest.mark.parametrize("family", ["llava-llama", "qwen2_5_vl"])
@pytest.mark.parametrize("spec", SAME.values())
def test_without_a_cache_the_tokens_are_the_same(family, spec):
    if family.startswith(SEVERAL_AXES) and spec.startswith("tome"):
        spec = "divprune(keep=0.3)"
    if not family.startswith("qwen") and spec.startswith("pixelprune"):
        spec = "divprune(keep=0.4)"
    tiny = FACTORIES[family](layers=3)
    inputs = tiny.batch(SAMPLES[:2] if family.startswith(SEVERAL_AXES) else SAMPLES)
    with apply(tiny.model, spec):
        want = tiny.model.generate(**inputs, **GO)
        assert torch.equal(tiny.model.generate(**inputs, **GO, use_cache=False), want)


@pytest.mark.parametrize("core", [False, True], ids=["model", "core"])
@pytest.mark.parametrize("spec", ANEW.values())
def test_what_would_decide_anew_for_every_token_is_refused_and_a_forward_is_not(spec, core):
    tiny = tiny_llava(layers=3)
    inputs = tiny.batch(SAMPLES)
    with apply(tiny.model.model if core else tiny.model, spec), torch.no_grad():
        for more in ({}, {"num_beams": 2}, {"do_sample": True}):
            with pytest.raises(ValueError, match="leave use_cache on") as said:
                tiny.model.generate(**inputs, **(GO | more), use_cache=False)
            assert "\n" not in str(said.value) and spec.split("(")[0] in str(said.value)
        assert bool(tiny.model(**inputs, use_cache=False).logits.isfinite().all())
        alone = tiny.batch([[6]])
        assert tiny.model.generate(**alone, **GO, use_cache=False).shape[1] == 11


@pytest.mark.parametrize("spec", [spec for name, spec in ANEW.items() if name != "skip_vision"])
@torch.no_grad()
def test_the_end_of_the_prompt_does_decide(spec):
    """That is why: with other text after the image, other rows stay."""
    tiny = tiny_llava(layers=3)
    kept = set()
    for seed in range(6):
        inputs = tiny.batch([[3, SQUARE, 5]])
        torch.manual_seed(seed)
        inputs["input_ids"][0, -5:] = torch.randint(8, 128, (5,))
        with apply(tiny.model, spec) as handle, handle.tracing() as traces:
            tiny.model(**inputs)
        kept.add(tuple(traces[0].kept(2)[0]))
    assert len(kept) > 1
