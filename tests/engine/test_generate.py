"""What generate can do under a plan: each feature gives the tokens of plain decoding, or is refused."""

from __future__ import annotations

import pytest
import torch

from saccade.engine import apply, kv_lengths
from support.models import FACTORIES, FIRST_WORD, SQUARE, VOCAB, tiny_llava, tiny_qwen
from support.turns import next_turn

SAMPLES = [[3, SQUARE, 5], [6], [2, SQUARE, 1, SQUARE, 2]]
SPECS = ("vskip(layers=1-3)", "vtw(layer=1)", "shortv(layers=0-1)+vtw(layer=3)")


def recomputed(tiny, inputs, steps: int) -> torch.Tensor:
    """Greedy tokens without a cache: the whole sequence again for every token."""
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    for _ in range(steps):
        step = inputs | {"input_ids": ids, "attention_mask": mask}
        if "mm_token_type_ids" in inputs:
            step["mm_token_type_ids"] = torch.nn.functional.pad(
                inputs["mm_token_type_ids"], (0, ids.shape[1] - inputs["input_ids"].shape[1])
            )
        with torch.no_grad():
            logits = tiny.model(**step, use_cache=False).logits[:, -1]
        logits[:, :FIRST_WORD] = float("-inf")
        ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], dim=1)
        mask = torch.nn.functional.pad(mask, (0, 1), value=1)
    return ids


@pytest.mark.parametrize("name", ["llava-llama", "llava_next-mistral", "qwen2_5_vl"])
@pytest.mark.parametrize("spec", SPECS)
def test_greedy_equals_full_recompute(name, spec):
    tiny = FACTORIES[name]()
    inputs = tiny.batch(SAMPLES)
    with apply(tiny.model, spec):
        want = recomputed(tiny, inputs, 4)
        assert torch.equal(tiny.model.generate(**inputs, max_new_tokens=4, do_sample=False), want)
        uncached = tiny.model.generate(**inputs, max_new_tokens=4, do_sample=False, use_cache=False)
        assert torch.equal(uncached, want)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("family", ["llava", "qwen"])
def test_sampling_with_several_sequences_equals_repeated_prompts(request, family, spec):
    tiny = request.getfixturevalue(family)
    inputs = tiny.batch([SAMPLES[0]])
    twice = tiny.batch([SAMPLES[0]])
    twice = {k: torch.cat([v, v]) for k, v in twice.items()}
    go = dict(max_new_tokens=4, do_sample=True, temperature=0.8, top_k=20)
    with apply(tiny.model, spec):
        torch.manual_seed(5)
        several = tiny.model.generate(**inputs, num_return_sequences=2, **go)
        torch.manual_seed(5)
        assert torch.equal(several, tiny.model.generate(**twice, **go))
        assert not torch.equal(several[0], several[1])


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("family", ["llava", "qwen"])
def test_beam_search_on_a_cache_equals_beam_search_without(request, family, spec):
    tiny = request.getfixturevalue(family)
    inputs = tiny.batch([SAMPLES[0], SAMPLES[2]])
    go = dict(max_new_tokens=4, num_beams=3, do_sample=False, num_return_sequences=2)
    with apply(tiny.model, spec):
        cached = tiny.model.generate(**inputs, **go)
        assert torch.equal(cached, tiny.model.generate(**inputs, use_cache=False, **go))


@pytest.mark.parametrize("name", ["llava-llama", "qwen2_5_vl"])
@pytest.mark.parametrize("spec", SPECS)
def test_prompt_lookup_gives_the_tokens_of_greedy(name, spec):
    tiny = FACTORIES[name]()
    inputs = tiny.batch([[8, SQUARE, 6]])
    ids = inputs["input_ids"]
    ids[0, -6:] = ids[0, :6]
    with apply(tiny.model, spec):
        want = tiny.model.generate(**inputs, max_new_tokens=8, do_sample=False)
        got = tiny.model.generate(
            **inputs,
            max_new_tokens=8,
            do_sample=False,
            prompt_lookup_num_tokens=3,
            return_dict_in_generate=True,
        )
    assert torch.equal(got.sequences, want)
    assert got.past_key_values.get_seq_length() == want.shape[1] - 1
    assert kv_lengths(got.past_key_values)[-1] == want.shape[1] - 1 - (
        0 if "vskip" in spec else visual(tiny, ids)
    )


def visual(tiny, ids) -> int:
    return int(tiny.visual({"input_ids": ids}).sum())


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("same", [True, False], ids=["good assistant", "bad assistant"])
def test_assisted_decoding_gives_the_tokens_of_greedy(llava, spec, same):
    assistant = tiny_llava(seed=0 if same else 1).model
    inputs = llava.batch([SAMPLES[0]])
    with apply(llava.model, spec):
        want = llava.model.generate(**inputs, max_new_tokens=8, do_sample=False)
        got = llava.model.generate(**inputs, max_new_tokens=8, do_sample=False, assistant_model=assistant)
    assert torch.equal(got, want)


@pytest.mark.parametrize("spec", SPECS)
def test_an_assistant_may_have_a_plan_of_its_own(llava, spec):
    assistant = tiny_llava(seed=0).model
    inputs = llava.batch([SAMPLES[0]])
    with apply(llava.model, spec), apply(assistant, "vtw(layer=2)"):
        want = llava.model.generate(**inputs, max_new_tokens=8, do_sample=False)
        got = llava.model.generate(**inputs, max_new_tokens=8, do_sample=False, assistant_model=assistant)
    assert torch.equal(got, want)


@pytest.mark.parametrize("name", ["llava-llama", "qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize("spec", SPECS)
def test_chunked_prefill_of_images_gives_the_tokens_of_greedy(name, spec):
    tiny = FACTORIES[name]()
    samples = [[3, SQUARE, 5], [1, SQUARE, 7]]
    inputs = tiny.batch(samples)
    vision = {k: inputs[k] for k in ("pixel_values", "image_grid_thw") if k in inputs}
    with torch.no_grad():
        features = tiny.model.model.get_image_features(**vision, return_dict=True)
    encoded = {k: v for k, v in inputs.items() if k != "pixel_values"} | {
        "mm_encoder_outputs": {"image": features}
    }
    go = dict(max_new_tokens=4, do_sample=False)
    with apply(tiny.model, spec):
        want = tiny.model.generate(**inputs, **go)
        for given, chunk in ((inputs, 5), (encoded, 4), (encoded, 64)):
            got = tiny.model.generate(**given, prefill_chunk_size=chunk, **go)
            assert torch.equal(got, want), chunk


@pytest.mark.parametrize("name", ["gemma3", "paligemma", *(["molmo2"] if "molmo2" in FACTORIES else [])])
def test_chunks_of_a_picture_whose_rows_see_rows_behind_them_are_refused(name):
    """Stock answers otherwise than in one piece there; a prompt of words alone is served."""
    tiny = FACTORIES[name]()
    inputs, words = tiny.batch([[3, SQUARE, 5]]), tiny.batch([[9]])
    go = dict(max_new_tokens=2, do_sample=False, prefill_chunk_size=4)
    with apply(tiny.model, "vtw(layer=2)"):
        with pytest.raises(ValueError, match=r"see rows behind them .*prefill_chunk_size"):
            tiny.model.generate(**inputs, **go)
        got = tiny.model.generate(**words, **go)
        assert torch.equal(got, tiny.model.generate(**words, max_new_tokens=2, do_sample=False))


@pytest.mark.parametrize("spec", SPECS)
def test_chunked_text_on_an_image_cache_gives_the_tokens_of_greedy(llava, spec):
    first = [[3, SQUARE, 2], [2, SQUARE, 3]]
    inputs = llava.batch(first, seed=4)
    go = dict(max_new_tokens=4, do_sample=False)
    with apply(llava.model, spec):
        sequences = []
        for chunk in (None, 2):
            said = llava.model.generate(
                **inputs, max_new_tokens=3, do_sample=False, return_dict_in_generate=True
            )
            cached, full = next_turn(llava, first, inputs, said.sequences, [[5], [4]])
            extra = {} if chunk is None else {"prefill_chunk_size": chunk}
            sequences.append(
                llava.model.generate(**cached, past_key_values=said.past_key_values, **go, **extra)
            )
        anew = llava.model.generate(**full, **go)
    assert torch.equal(sequences[0], anew) and torch.equal(sequences[1], anew)


@pytest.mark.parametrize("feature", [{"penalty_alpha": 0.6, "top_k": 4}, {"dola_layers": "high"}])
def test_modes_that_left_transformers_stay_its_own_error(llava, feature):
    inputs = llava.batch([SAMPLES[0]])
    with pytest.raises((ValueError, OSError, ImportError)) as stock:
        llava.model.generate(**inputs, max_new_tokens=2, **feature)
    with apply(llava.model, SPECS[0]), pytest.raises(type(stock.value)):
        llava.model.generate(**inputs, max_new_tokens=2, **feature)


@pytest.mark.parametrize("spec", SPECS)
def test_a_conversation_keeps_its_rope_deltas(spec):
    tiny = tiny_qwen()
    core = tiny.model.model
    inputs, probe = tiny.batch([SAMPLES[0]]), tiny.batch([[9, SQUARE, 1, SQUARE, 2]], seed=1)
    go = dict(max_new_tokens=4, do_sample=False)
    with apply(tiny.model, spec):
        first = tiny.model.generate(**inputs, return_dict_in_generate=True, **go)
        held = core.rope_deltas.clone()
    assert torch.equal(core.rope_deltas, held)
    with apply(tiny.model, "shortv(layers=0)") as attachment:
        assert torch.equal(core.rope_deltas, held)
        attachment.remove()
    assert torch.equal(core.rope_deltas, held)
    # A new prompt moves them, with or without a plan: whoever probes a conversation restores them.
    with torch.no_grad(), apply(tiny.model, spec):
        tiny.model(**probe)
    assert not torch.equal(core.rope_deltas, held)
    core.rope_deltas = held
    more = torch.randint(FIRST_WORD, VOCAB, (1, 3))
    ids = torch.cat([first.sequences, more], 1)
    types = (ids == 3).int()
    full = inputs | {"input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": types}
    cached = {k: full[k] for k in ("input_ids", "attention_mask", "mm_token_type_ids", "image_grid_thw")}
    with apply(tiny.model, spec):
        on_cache = tiny.model.generate(**cached, past_key_values=first.past_key_values, **go)
        assert torch.equal(on_cache, tiny.model.generate(**full, **go))
