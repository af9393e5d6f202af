"""One engine: rows that were skipped are counted, and what is cached belongs to a plan."""

from __future__ import annotations

import pytest
from e2e.vllm.support import NEW, RANKS, engine, prompts
from prometheus_client import REGISTRY

PLAN = "vskip(layers=1)+ffn_skip(layers=2)"
VISUAL = 16
LAYERS = 4


@pytest.fixture(scope="module", params=[1, 2], ids=["one rank", "two ranks"])
def served(request, references):
    how = {"enable_prefix_caching": True, "block_size": 32, "tensor_parallel_size": request.param}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(*RANKS)
        with engine(references("llava").folder, PLAN, **how) as made:
            yield made


def told(outcome: str, layer: int, part: str) -> int:
    labels = {"layer": str(layer), "part": part, "outcome": outcome}
    return int(REGISTRY.get_sample_value("saccade_rows_total", labels))


def counts() -> dict[tuple[int, str, str], int]:
    return {
        (layer, part, outcome): told(outcome, layer, part)
        for layer in range(LAYERS)
        for part in ("kv", "attention", "ffn")
        for outcome in ("computed", "skipped")
    }


@pytest.mark.e2e
@pytest.mark.timeout(1800)
def test_rows_that_were_skipped_are_told_layer_by_layer(served, references):
    asked = prompts("llava")
    served.llm.reset_prefix_cache()
    before = counts()
    # One by one, so that nothing of one prompt serves another but what is cached.
    found = [served.ask_cached([prompt])[0] for prompt in asked]
    cached = sum(count for _, count in found)
    told = {key: count - before[key] for key, count in counts().items()}
    visual = VISUAL * sum(len(prompt.images) for prompt in asked)
    words = sum(len(prompt.text.replace("<image>", "").split()) for prompt in asked)
    # The last token of an answer is never run.
    rows = visual + words + (NEW - 1) * len(asked) - cached
    skipped = told[1, "attention", "skipped"]
    assert visual - cached <= skipped <= visual and skipped > 0
    for layer in range(LAYERS):
        for part in ("kv", "attention", "ffn"):
            spared = (layer, part) in ((1, "attention"), (2, "ffn"))
            assert told[layer, part, "skipped"] == (skipped if spared else 0)
            assert told[layer, part, "computed"] == rows - (skipped if spared else 0)


@pytest.mark.e2e
@pytest.mark.timeout(1800)
def test_what_is_cached_under_one_plan_serves_no_other(served, references):
    asked = prompts("llava")[3]
    served.llm.reset_prefix_cache()
    found = []
    for plan in (PLAN, PLAN, "shortv(layers=1-2)", "dense", "shortv(layers=1-2)", PLAN):
        served.use(plan)
        found.append((plan, *served.ask_cached([asked])[0]))
    hits = [cached > 0 for _, _, cached in found]
    assert hits == [False, True, False, False, True, True]
    for plan, tokens, _ in found:
        assert tokens == references("llava").answers(plan, prompts("llava"))[3]
    served.use(PLAN)
