"""Prompts that began at different times decode as one batch, and share what they begin with; answers stay."""

from __future__ import annotations

import pytest
import torch

from saccade.engine import apply, kv_bytes
from saccade.engine.join import join, part
from saccade.models import greedy
from saccade.opening.loaded import wrap
from saccade.plans.plan import Plan
from saccade.serve.together import beginning, go_on, only, read, read_on, together
from support.models import FACTORIES, SQUARE, TALL, WIDE

SPECS = (
    *("", "vskip(layers=1-2)", "shortv(layers=1-2)", "ffn_skip(layers=2-3)", "vtw(layer=2)"),
    *(
        "divprune(keep=0.5,position_policy=keep)",
        "divprune(keep=0.5)",
        "uniform(keep=0.3)",
        "random(keep=0.5)",
    ),
    *(
        "fastervlm(keep=0.5)",
        "visionzip()",
        "vispruner(keep=0.5)",
        "prumerge()",
        "pool()",
        "tome()",
        "victor()",
    ),
    *("fastv(layer=2,keep=0.5)", "pyramiddrop()", "dart(layer=2,keep=0.5)", "sparsevlm()", "token_merge()"),
    "divprune(keep=0.4)+vskip(layers=1)+vtw(layer=3)",
)
WHOLE = ("fastv", "pyramiddrop", "dart", "sparsevlm")
"""Methods that decide by the end of the prompt."""
SAMPLES = [[3, SQUARE, 5], [4], [2, WIDE, 1, TALL, 3], [6, SQUARE, 2]]
LONGEST = (3, 6, 5, 6)
RESTS = (3, 2)
"""Tokens after the last picture of the last two."""
NAMES = ("llava-llama", "llava_next-mistral", "qwen2_5_vl", "qwen3_vl", "internvl-qwen3")
CASES = [
    (name, spec) for name in NAMES for spec in SPECS if not (name.startswith("qwen") and spec == "tome()")
]
"""No tower of Qwen merges."""


@pytest.fixture(scope="module")
def models():
    held = {}

    def get(name):
        if name not in held:
            held[name] = FACTORIES[name]()
        return held[name]

    return get


def words(tiny, prompts):
    """The likeliest tokens that a tiny model may say."""
    banned = tiny.model.generation_config.suppress_tokens
    return prompts.logits_BV.index_fill(1, torch.tensor(banned), float("-inf")).argmax(-1)


def written(tiny, singles, plan):
    """What every sample answers alone, by the stock loop."""
    with apply(tiny.model, plan):
        made = [(tiny.model.generate(**one, **greedy(6)), one["input_ids"].shape[1]) for one in singles]
    return [tokens[0, rows:].tolist() for tokens, rows in made]


@pytest.mark.share(6)
@pytest.mark.parametrize(("name", "spec"), CASES)
@torch.inference_mode()
def test_answers_that_begin_and_end_at_different_times_are_those_of_one_alone(name, spec, models):
    tiny, plan = models(name), Plan.of(spec) if spec else Plan()
    loaded, singles = wrap(tiny.model, None, name), tiny.singles(SAMPLES)
    want = written(tiny, singles, plan)
    with apply(tiny.model, plan) as handle:
        live, later = read(loaded, tiny.batch(SAMPLES[:2])), [read(loaded, one) for one in singles[2:]]
        whole = handle.looks_at_end
    assert whole == any(method in spec for method in WHOLE)
    who, got = [0, 1], [[] for _ in SAMPLES]
    with apply(tiny.model, Plan()):
        ids = [one["input_ids"][0].tolist() for one in singles[2:]]
        kept = [] if whole else [beginning(later[n], 0, ids[n], rest) for n, rest in enumerate(RESTS)]
        for joins in (None, None, 2, 3, None, None, None, None, None):
            if joins is not None:
                live, who = together([live, later[joins - 2]]), [*who, joins]
            tokens = words(tiny, live)
            for sample, token in zip(who, tokens.tolist(), strict=True):
                got[sample].append(token)
            live = go_on(loaded, live, tokens)
            stay = [n for n, sample in enumerate(who) if len(got[sample]) < LONGEST[sample]]
            who = [who[n] for n in stay]
            if not who:
                break
            live = only(live, stay)
        assert got == [one[:longest] for one, longest in zip(want, LONGEST, strict=True)]
        if whole:
            return
        # The pictures are not read again, and the beginnings are whole afterwards.
        for _ in range(2):
            live = read_on(loaded, kept, [one[-rest:] for one, rest in zip(ids, RESTS, strict=True)])
            for sample, one in enumerate(later):
                torch.testing.assert_close(live.logits_BV[sample], one.logits_BV[0], atol=2e-5, rtol=1e-4)
            said = []
            for _ in range(5):
                said.append(words(tiny, live))
                live = go_on(loaded, live, said[-1])
            assert torch.stack(said, 1).tolist() == [one[:5] for one in want[2:]]


@torch.inference_mode()
def test_answers_of_several_plans_are_written_together(llava):
    loaded = wrap(llava.model, None, "tiny")
    specs = ("vtw(layer=1)", "divprune(keep=0.4)", "fastv(layer=2,keep=0.5)", "vskip(layers=0-3)")
    want, begun = [], []
    for spec, one in zip(specs, llava.singles(SAMPLES), strict=True):
        with apply(llava.model, spec):
            made = llava.model.generate(**one, **greedy(6))
            begun.append(read(loaded, one))
        want.append(made[0, one["input_ids"].shape[1] :].tolist())
    live, said = together(begun), []
    with apply(llava.model, Plan()):
        for _ in range(6):
            said.append(words(llava, live))
            live = go_on(loaded, live, said[-1])
    assert torch.stack(said, 1).tolist() == want


@torch.inference_mode()
def test_prompts_of_one_length_that_keep_different_numbers_of_rows_decode_together(llava):
    """Nothing pads them, but for columns of the cache."""
    loaded, specs = (
        wrap(llava.model, None, "tiny"),
        ("vtw(layer=0)", "divprune(keep=0.4)", "uniform(keep=0.8)"),
    )
    want, begun = [], []
    for spec, one in zip(specs, llava.singles([[3, SQUARE, 5]] * 3), strict=True):
        with apply(llava.model, spec):
            made = llava.model.generate(**one, **greedy(6))
            begun.append(read(loaded, one))
        want.append(made[0, one["input_ids"].shape[1] :].tolist())
    live, said = together(begun), []
    assert bool(live.mask_BT.all())
    for layer in live.cache.layers:
        held = (layer.rows.ids_BK >= 0).sum(1)
        assert layer.rows.padding == int(held.max() - held.min()) > 0
    with apply(llava.model, Plan()):
        for _ in range(6):
            said.append(words(llava, live))
            live = go_on(loaded, live, said[-1])
    assert torch.stack(said, 1).tolist() == want


@torch.inference_mode()
def test_a_part_shares_no_memory_and_holds_its_rows_alone(llava):
    loaded = wrap(llava.model, None, "tiny")
    with apply(llava.model, "vtw(layer=2)"):
        prompts = read(loaded, llava.batch(SAMPLES))
    taken = part(prompts.cache, [3], prompts.mask_BT.shape[1] - 24, prompts.mask_BT.shape[1])
    before = [layer.keys.clone() for layer in taken.layers]
    for layer in prompts.cache.layers:
        layer.keys.fill_(7)
    assert all(a.equal(b.keys) for a, b in zip(before, taken.layers, strict=True))
    assert [layer.keys.shape[2] for layer in taken.layers] == [24, 24, 8, 8]
    both = join([taken, taken])
    assert kv_bytes(both) == 2 * kv_bytes(taken) and both.get_seq_length() == 24
