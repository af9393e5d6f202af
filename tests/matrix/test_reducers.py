"""Rows decided on the way: what ran equals stock layers on the rows that the trace says lived."""

from __future__ import annotations

import pytest
import torch

import saccade
from matrix.cases import (
    ATTENTIONS,
    LAYERS,
    SCENES,
    TEXT,
    TOLERANCE,
    crossed,
    greedy,
    inputs,
    model,
    scenes_of,
    share,
    stock,
)
from saccade.engine import kv_lengths
from support.models import FIRST_WORD, RECURRENT, SEVERAL_AXES
from support.reference import extend, gap
from support.rowwise import rowwise, sets_of
from support.sight import held
from support.turns import next_turn

PRUNERS = [
    "fastv(layer=1,keep=0.5)",
    "fastv(layer=2,keep=5,position_policy=compact)",
    "random(keep=0.25)",
    "random(keep=6,layer=2,position_policy=compact)",
    "pyramiddrop(layers=1/2/3,keep=0.5)",
    "fitprune(layers=1/2/3,left=0.7/0.5/0.2)",
    "fastervlm(keep=0.5,share=image)",
    "vispruner(keep=7,share=image)",
    "divprune(keep=0.4)",
    "cdpruner(keep=0.4)",
    "hiprune(keep=0.4,alpha=0.6)",
    "uniform(keep=0.3)",
    "uniform(keep=0.4,layer=2)",
    "dart(layer=1,keep=0.5)",
    "sparsevlm_plus(tokens=0.4,layers=1/2/3)",
]
"""Reducers that move and merge nothing, so that the rows that lived say everything."""

COMPOSED = [
    "fastv(layer=1,keep=0.5)+vskip(layers=0/2)",
    "random(keep=0.5)+fastv(layer=2,keep=0.5)+shortv(layers=1/3)",
    "fastv(layer=1,keep=0.7)+ffn_skip(layers=1-2)+vtw(layer=3)",
    "vtw(layer=2)+fastv(layer=3,keep=0.5)",
    "random(keep=9)+random(keep=4,layer=1,seed=3)+vskip(layers=2-3)",
    "fastv(layer=1,keep=0.8)+pyramiddrop(layers=2/3,keep=0.5)",
    "fitprune(layers=1/3,left=0.8/0.4)+vskip(layers=0/2)",
    "fastervlm(keep=0.6,share=image)+vtw(layer=3)+vskip(layers=1)",
]

PLANS = PRUNERS + COMPOSED
LEFT = ["single-1", "ragged-1-left", "single-2", "ragged-2-left"]


def fitting(plan: str, family: str) -> str:
    """The plan as the family can run it: positions with several axes are kept."""
    return plan.replace(",position_policy=compact", "") if family.startswith(SEVERAL_AXES) else plan


@share(10)
@pytest.mark.parametrize("attn", ATTENTIONS)
@pytest.mark.parametrize(("plan", "family", "scene"), scenes_of(PLANS, SCENES))
@torch.no_grad()
def test_gather_equals_mask(plan, family, attn, scene):
    tiny, given = model(family, attn), inputs(family, scene)
    with saccade.apply(tiny.model, fitting(plan, family)) as handle, handle.tracing() as traces:
        ours = tiny.model(**given, use_cache=True)
    (trace,) = traces
    with rowwise(tiny.model, sets_of(trace)):
        theirs = tiny.model(**given, use_cache=False).logits
    text = given["attention_mask"].bool() & ~tiny.visual(given)
    assert gap(ours.logits, theirs, text) < TOLERANCE
    rows = [layer.alive_BN.sum(1).tolist() for layer in trace.route.layers]
    assert kv_lengths(ours.past_key_values) == held(tiny.model.config, rows)
    assert ours.past_key_values.get_seq_length() == given["input_ids"].shape[1]
    assert max(rows[-1]) < given["input_ids"].shape[1], "nothing was dropped"


@share(6)
@pytest.mark.parametrize(("plan", "family", "scene"), scenes_of(PLANS, LEFT))
def test_eight_greedy_steps_equal_full_recompute_with_the_same_rows(plan, family, scene):
    tiny, given = model(family), inputs(family, scene)
    with saccade.apply(tiny.model, fitting(plan, family)) as handle, handle.tracing() as traces:
        said = greedy(tiny, given, 8)
    sets = sets_of(traces[0])
    whole = extend(given, said.sequences)
    positions = {}
    if not family.startswith(SEVERAL_AXES):
        positions["position_ids"] = (whole["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad(), rowwise(tiny.model, sets):
        theirs = tiny.model(**whole, use_cache=False, **positions).logits[
            :, given["input_ids"].shape[1] - 1 :
        ]
    for step, ours in enumerate(said.logits):
        assert gap(ours, theirs[:, step]) < TOLERANCE, f"step {step}"
    theirs[..., :FIRST_WORD] = -torch.inf
    assert torch.equal(said.sequences[:, -8:], theirs[:, :-1].argmax(-1))
    rows = [[count + 7 for count in s.alive_BN.sum(1).tolist()] for s in sets]
    assert kv_lengths(said.past_key_values) == held(tiny.model.config, rows)


@share(3)
@pytest.mark.parametrize(("plan", "family"), crossed(PLANS))
@torch.no_grad()
def test_a_batch_equals_its_singles(plan, family):
    samples = [[2, (24, 24), 3, (24, 48), 2], [4], [(48, 24), 1], [3, (8, 48), 1, (24, 24), 5]]
    for padding, attn in (("left", "sdpa"), ("right", "eager")):
        tiny = model(family, attn)
        batch, singles = tiny.batch(samples, padding, seed=2), tiny.singles(samples, seed=2)
        with saccade.apply(tiny.model, fitting(plan, family)) as handle, handle.tracing() as traces:
            logits = tiny.model(**batch).logits
            together = traces[-1]
            for b, single in enumerate(singles):
                alone = tiny.model(**single).logits[0]
                text = ~tiny.visual(single)[0]
                real = batch["attention_mask"][b].bool()
                assert gap(logits[b, real][text], alone[text]) < TOLERANCE
                if bool(tiny.visual(single).any()):
                    first = int(real.int().argmax())
                    rows = [[n - first for n in kept] for kept in [together.kept(LAYERS - 1)[b]]]
                    assert rows == traces[-1].kept(LAYERS - 1)


NOTHING = ["fastv(layer=1,keep=1)", "random(keep=1)", "pyramiddrop(layers=1/2,keep=1)", "fastervlm(keep=1.0)",
           "vispruner(keep=1)", "divprune(keep=999)", "uniform(keep=1)", "dart(layer=1,keep=1)",
           "cdpruner(keep=1.0)", "hiprune(keep=999)"]  # fmt: skip


@share(2)
@pytest.mark.parametrize(("plan", "family"), crossed(NOTHING))
@torch.no_grad()
def test_keeping_everything_is_bit_identical(plan, family):
    for attn, scene in (("sdpa", "single-2"), ("eager", "ragged-2-left"), ("sdpa", "ragged-1-right")):
        tiny, given = model(family, attn), inputs(family, scene)
        with saccade.apply(tiny.model, plan):
            ours, theirs = tiny.model(**given).logits, stock(family, attn, scene)
        if family in RECURRENT and scene.endswith("right"):
            # Padding on the right enters no state, as it does in the stock model.
            assert gap(ours, theirs, given["attention_mask"]) < TOLERANCE
            continue
        assert torch.equal(ours, theirs)


@share(4)
@pytest.mark.parametrize(("plan", "family"), crossed(PLANS))
@torch.no_grad()
def test_no_visual_rows_no_effect_and_no_trace(plan, family):
    for scene in TEXT:
        tiny, given = model(family), inputs(family, scene)
        with saccade.apply(tiny.model, fitting(plan, family)):
            assert torch.equal(tiny.model(**given).logits, stock(family, "sdpa", scene))
    given = inputs(family, "ragged-1-left")
    with saccade.apply(tiny.model, fitting(plan, family)):
        tiny.model(**given)
    assert torch.equal(tiny.model(**given).logits, stock(family, "sdpa", "ragged-1-left"))


FIRST = [[3, (24, 24), 2], [2, (24, 48), 4], [5]]


@share(4)
@pytest.mark.parametrize(("plan", "family"), crossed(PLANS))
def test_a_second_turn_of_text_attends_to_what_the_first_left(plan, family):
    tiny = model(family)
    given = tiny.batch(FIRST, "left", seed=4)
    with saccade.apply(tiny.model, fitting(plan, family)) as handle, handle.tracing() as traces:
        said = greedy(tiny, given, 3)
        cached, full = next_turn(tiny, FIRST, given, said.sequences, [[3], [5], [2]])
        ours = greedy(tiny, cached, 4, past_key_values=said.past_key_values)
    assert len(traces) == 1
    whole = extend(full, ours.sequences)
    positions = {}
    if not family.startswith(SEVERAL_AXES):
        positions["position_ids"] = (whole["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad(), rowwise(tiny.model, sets_of(traces[0])):
        theirs = tiny.model(**whole, use_cache=False, **positions).logits[:, full["input_ids"].shape[1] - 1 :]
    for step, logits in enumerate(ours.logits):
        assert gap(logits, theirs[:, step]) < TOLERANCE, f"step {step}"
