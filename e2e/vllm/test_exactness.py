"""Greedy tokens inside vLLM are those of transformers under the same plan, plan by plan, setting by setting.

One engine a family and setting serves every plan, with prompts that are asked at once. What an engine of
these settings may not serve it must refuse.
"""

from __future__ import annotations

import pytest
from e2e.vllm.support import FAMILIES, RANKS, RECURRENT, SHOWING, Engine, engine, prompts

PLANS = (
    "vskip(layers=1-2)",
    "dense",
    "ffn_skip(layers=0,3)",
    "shortv(layers=1-2)",
    "vtw(layer=2)",
    "vskip(layers=0-1)+ffn_skip(layers=1-2)+vtw(layer=3)",
    "divprune(keep=0.4)",
    "uniform(keep=0.3)",
    "random(keep=5)",
    "pool(factor=2)",
    "divprune(keep=6,position_policy=keep)+shortv(layers=1)",
    "divprune(keep=6)+vtw(layer=2)",
)
RECURRING = ("vskip(layers=2-3)", "shortv(layers=3)", "vskip(layers=0,3)+divprune(keep=0.4)")
"""Plans that skip in a layer which recurs, the last of four."""
LOOKING = (
    "fastervlm(keep=0.4)",
    "vispruner(keep=6)",
    "visionzip(dominant=4,contextual=2)",
    "visionzip(dominant=0.3,contextual=0.2,position_policy=keep)",
    "hiprune(keep=0.4)",
    "fastervlm(keep=0.7,share=image)+divprune(keep=0.5)",
    "vispruner(keep=7)+shortv(layers=1)+vtw(layer=3)",
)
"""Plans that look into the vision tower."""
SETTINGS = {
    "plain": {},
    "chunked 16": {"max_num_batched_tokens": 16, "enable_chunked_prefill": True, "max_num_seqs": 4},
    "prefix hit": {"enable_prefix_caching": True, "block_size": 32},
    "preempted": {"num_gpu_blocks_override": 6, "block_size": 32, "max_model_len": 160},
    # Captured by torch.compile as it is by default; what the captured graph is then lowered to is not ours.
    "compiled": {"enforce_eager": False, "compilation_config": {"backend": "eager"}},
    "TP=2": {"tensor_parallel_size": 2},
}


TILED = {
    "chunked 16": {"max_num_batched_tokens": 64},
    "preempted": {"num_gpu_blocks_override": 7, "max_model_len": 192},
}
"""What differs for InternVL: its tiles make longer prompts, and vLLM holds no picture larger than a chunk."""
STATES = {"preempted": {"num_gpu_blocks_override": 18}}
"""What differs where layers recur: their states take blocks too, and each kind of layer has its own."""


def told(served: Engine, setting: str, plan: str, asked, want) -> str:
    """What is found of a plan: ``equal``, ``refused``, or what differs."""
    try:
        served.use(plan)
    except ValueError:
        return "refused"
    got = served.ask_cached(asked)
    if setting == "prefix hit":
        # Asked again and at once: all of them find rows of before, and share them.
        got = served.ask_cached(asked)
        if not any(cached for _, cached in got):
            return "nothing was found in the cache"
    tokens = [answer for answer, _ in got]
    wrong = [n for n, (a, b) in enumerate(zip(tokens, want, strict=True)) if a != b]
    return f"prompts {wrong} differ" if wrong else "equal"


@pytest.mark.e2e
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_are_those_of_transformers(family, setting, references, note, monkeypatch):
    if setting == "TP=2":
        monkeypatch.setenv(*RANKS)
    reference, asked = references(family), prompts(family)
    plans = PLANS + LOOKING + RECURRING * (family in RECURRENT)
    want = {plan: reference.answers(plan, asked) for plan in plans if _served(family, plan)}
    own = TILED if family == "internvl" else STATES if family in RECURRENT else {}
    given = SETTINGS[setting] | own.get(setting, {})
    with engine(reference.folder, PLANS[0], **given) as served:
        found = {plan: told(served, setting, plan, asked, want.get(plan)) for plan in plans}
        note(family, setting, found)
        if setting == "preempted":
            assert served.preemptions() > 0
    refused = {
        plan for plan in plans if not _served(family, plan) or (setting == "prefix hit" and "vtw" in plan)
    }
    assert found == {plan: "refused" if plan in refused else "equal" for plan in plans}


def _served(family: str, plan: str) -> bool:
    """Whether a plan runs on a family: none drops rows where layers recur, or looks where nothing shows."""
    return not (family in RECURRENT and "vtw" in plan) and (plan not in LOOKING or family in SHOWING)


@pytest.mark.e2e
@pytest.mark.timeout(900)
@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in RECURRENT])
def test_an_engine_starts_with_a_plan_that_drops_rows_in_the_decoder(family, references):
    """What vLLM measures its memory by ends with a picture, which no prompt may under such a plan."""
    plan, reference, asked = "vtw(layer=2)", references(family), prompts(family)
    with engine(reference.folder, plan) as served:
        assert told(served, "plain", plan, asked, reference.answers(plan, asked)) == "equal"
