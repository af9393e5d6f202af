"""The next token is read at the last row that is left, as in a prompt that really is shorter.

Shape letters: B batch, N rows, V vocabulary.
"""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache

from engine.test_training import gradients, same, training
from saccade import apply
from saccade.engine.decide import Decisions
from support.models import FACTORIES, FIRST_WORD, SQUARE, WIDE, tiny_llava
from support.reference import gap
from support.shortened import shortened

MIXED = [[4, SQUARE], [2, SQUARE, 3], [5], [1, SQUARE, 2, WIDE], [SQUARE, 2], [WIDE]]
THOROUGH = ("llava-llama", "qwen3_vl", "internvl-qwen3")
FAMILIES = (*THOROUGH, "llava_next-mistral", "qwen2_5_vl", "qwen2_vl", "llava_onevision")
SPECS = (
    "vtw(layer=2)",
    "vtw(layer=0)",
    "victor(layer=1,registers=2)",
    "fastv(layer=1,keep=0.5)+vtw(layer=2)",
    "random(keep=0.3)",
    "random(keep=0)",
    "divprune(keep=0.3)",
    "visionzip(dominant=2,contextual=2)",
    "pool(factor=2)",
    "fastv(layer=1,keep=0.3)",
    "fastv(layer=2,keep=0)",
    "pyramiddrop(layers=1/2,keep=0.5)",
    "sparsevlm(tokens=0.4,layers=1/2,recycle=false)",
    "dart(layer=1,keep=0.5,pivots=2)",
    "random(keep=0.5)+fastv(layer=2,keep=0.4)",
)
CLOSING = ("divprune(keep=0.3,position_policy=compact)", "fastv(layer=1,keep=0.3,position_policy=compact)")


@torch.no_grad()
def check_rows(tiny, spec: str, padding: str = "left") -> None:
    """Every row of a batch that anything is left before, against each sample's shortened prompt."""
    inputs, singles = tiny.batch(MIXED, padding, seed=1), tiny.singles(MIXED, seed=1)
    with apply(tiny.model, spec):
        ours = tiny.model(**inputs).logits
        last = tiny.model(**inputs, logits_to_keep=2).logits
    assert gap(last, ours[:, -2:]) < 1e-6
    for b, given in enumerate(singles):
        found = shortened(tiny, spec, given)
        if found is None:
            continue
        logits, rows = found
        mine = ours[b, inputs["attention_mask"][b].bool()]
        at = torch.searchsorted(rows, torch.arange(len(mine)), right=True) - 1
        if len(rows):
            assert gap(mine[at >= 0], logits[at[at >= 0]]) < 2e-5, b


@pytest.mark.share(2)
@pytest.mark.parametrize(
    ("name", "spec"),
    [(n, s) for n in FAMILIES for s in (SPECS if n in THOROUGH else SPECS[1:12:3])],
)
def test_every_dropped_row_shows_the_last_one_left_before_it(name, spec):
    check_rows(FACTORIES[name](layers=3), spec)


@pytest.mark.parametrize("spec", [*CLOSING, "vtw(layer=1)", "pyramiddrop(layers=1/2,keep=0.5)"])
@pytest.mark.parametrize("name", ["llava-llama", "llava_next-llama", "internvl-qwen2", "llava_onevision"])
def test_with_padding_on_the_right_and_positions_that_close_up(name, spec):
    check_rows(FACTORIES[name](layers=3), spec, padding="right")


@pytest.mark.share(2)
@pytest.mark.parametrize(
    "spec", ["vtw(layer=1)", "divprune(keep=0.3)", "fastv(layer=1,keep=0.3)", CLOSING[0]]
)
@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_generation_goes_on_from_there(name, spec):
    tiny, spec = (
        FACTORIES[name](layers=3),
        spec if "qwen" not in name[:4] else spec.replace("compact", "keep"),
    )
    inputs, singles = tiny.batch(MIXED[:4], "left", seed=1), tiny.singles(MIXED[:4], seed=1)
    go = dict(max_new_tokens=4, do_sample=False, output_logits=True, return_dict_in_generate=True)
    with apply(tiny.model, spec):
        ours = tiny.model.generate(**inputs, **go)
    said = ours.sequences[:, inputs["input_ids"].shape[1] :]
    for b, given in enumerate(singles):
        found = shortened(tiny, spec, given, said[b : b + 1, :-1])
        if found is None:
            continue
        logits = found[0][-4:]
        assert gap(torch.stack([step[b] for step in ours.logits]), logits) < 2e-5, b
        assert (logits[:, FIRST_WORD:].argmax(-1) + FIRST_WORD).tolist() == said[b].tolist()


@pytest.mark.parametrize("reentrant", [None, False, True])
@pytest.mark.parametrize("spec", ["vtw(layer=1)", "divprune(keep=0.3)", "fastv(layer=1,keep=0.3)"])
@pytest.mark.parametrize("name", ["llava-llama", "qwen3_vl"])
def test_a_caption_is_learned_from_the_row_that_is_left_before_it(name, spec, reentrant):
    """Loss and gradients are those of the shorter prompt, whose image ends before the caption."""
    tiny = FACTORIES[name](layers=3)
    given, caption = tiny.batch([[2, SQUARE, 3]], seed=1), 3
    labels = torch.full_like(given["input_ids"], -100)
    labels[:, -caption:] = given["input_ids"][:, -caption:]
    found = shortened(tiny, spec, given)
    assert found is not None
    want = torch.nn.functional.cross_entropy(found[0][-caption - 1 : -1], labels[0, -caption:])
    want.backward()
    theirs = gradients(tiny.model)
    with apply(tiny.model, spec), training(tiny.model, reentrant):
        loss = tiny.model(**given, labels=labels, use_cache=False).loss
        loss.backward()
    ours = gradients(tiny.model)
    torch.testing.assert_close(loss, want, atol=1e-5, rtol=1e-5)
    same(ours, theirs, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize(
    "spec",
    [
        "random(keep=0.3)+fastv(layer=1,keep=0.5)",
        "pyramiddrop(layers=1/2,keep=0.4)",
        "sparsevlm_plus(tokens=0.3,layers=1/2)",
        "vskip(layers=0)+victor(layer=1,registers=0)+fastv(layer=2,keep=0.5)",
    ],
)
@torch.no_grad()
def test_who_asks_is_the_last_row_that_is_left(monkeypatch, spec):
    tiny, asked = FACTORIES["llava-llama"](layers=3), []
    look = Decisions._look

    def noting(self, stage, taken, number, *args, **kwargs):
        seen = look(self, stage, taken, number, *args, **kwargs)
        asked.append((stage.before, number, seen["asking_BR"][:, 0]))
        return seen

    monkeypatch.setattr(Decisions, "_look", noting)
    samples = [[4, SQUARE], [2, SQUARE, 1, WIDE]]
    for padding in ("left", "right"):
        inputs = tiny.batch(samples, padding, seed=1)
        with apply(tiny.model, spec) as handle, handle.tracing() as traces:
            tiny.model(**inputs)
        for before, number, rows_B in asked:
            # What is asked in the layer about to run is asked before that layer's rows are chosen.
            at = number - 1 if before == number else number
            alive_BN = traces[-1].route.layers[at].alive_BN & inputs["attention_mask"].bool()
            assert rows_B.tolist() == [int(rows.nonzero().max()) for rows in alive_BN]
        assert asked or "victor" in spec
        asked.clear()


@pytest.mark.share(2)
@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("name", ["llava-llama", "qwen2_5_vl", "internvl-qwen3"])
@torch.no_grad()
def test_a_prompt_that_is_nothing_but_an_image(name, spec):
    tiny = FACTORIES[name](layers=3)
    inputs = tiny.batch([[SQUARE]])
    go = dict(max_new_tokens=3, do_sample=False, output_logits=True, return_dict_in_generate=True)
    with apply(tiny.model, spec):
        ours = tiny.model.generate(**inputs, **go)
    found = shortened(tiny, spec, inputs, ours.sequences[:, -3:-1])
    assert found is not None and all(bool(step.isfinite().all()) for step in ours.logits)
    logits = found[0][-3:]
    assert gap(torch.cat(ours.logits)[-len(logits) :], logits) < 2e-5


@torch.no_grad()
def test_recorded_states_end_with_what_is_read():
    tiny = FACTORIES["llava-llama"](layers=3)
    inputs = tiny.batch(MIXED[:2])
    with apply(tiny.model, "vtw(layer=1)"):
        out = tiny.model.model(**inputs, output_hidden_states=True)
        pair = tiny.model.model(**inputs, return_dict=False)
        bare = tiny.model.model(**inputs)
    assert out.hidden_states[-1] is out.last_hidden_state
    assert torch.equal(out.last_hidden_state, bare.last_hidden_state)
    assert torch.equal(pair[0], bare.last_hidden_state)
    assert len(out.hidden_states) == 4 and out.hidden_states[0].shape == out.hidden_states[-1].shape


@pytest.mark.parametrize("spec", ["vtw(layer=2)", "vtw(layer=2)+vskip(layers=1)"])
def test_an_image_at_the_end_that_comes_after_its_text_is_refused_where_nothing_of_it_is_left(spec):
    """The last row left is one of an earlier forward: in chunks, or on a cache."""
    tiny = tiny_llava()
    inputs = tiny.batch([[6, SQUARE]])
    with apply(tiny.model, spec):
        for chunk in (3, 6, 10):
            with pytest.raises(ValueError, match="ends with, so it needs the prompt in one piece"):
                tiny.model.generate(**inputs, max_new_tokens=2, do_sample=False, prefill_chunk_size=chunk)
        cache = DynamicCache(config=tiny.model.config.get_text_config())
        words = {"input_ids": inputs["input_ids"][:, :6], "attention_mask": inputs["attention_mask"][:, :6]}
        tiny.model(**words, past_key_values=cache)
        later = inputs | {"input_ids": inputs["input_ids"][:, 6:]}
        with pytest.raises(ValueError, match="give text and image in one forward"):
            tiny.model(**later, past_key_values=cache)


def test_chunks_of_nothing_but_an_image_in_the_middle_are_served():
    tiny = tiny_llava()
    inputs = tiny.batch([[6, SQUARE, 5]])
    go = dict(max_new_tokens=3, do_sample=False)
    with apply(tiny.model, "vtw(layer=2)"):
        whole = tiny.model.generate(**inputs, **go)
        for chunk in (3, 6, 7):
            assert torch.equal(tiny.model.generate(**inputs, **go, prefill_chunk_size=chunk), whole)
