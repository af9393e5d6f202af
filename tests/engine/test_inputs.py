"""What a routed forward takes and what it refuses: masks, positions, embeddings, layouts, precisions."""

from __future__ import annotations

import warnings

import pytest
import torch

from engine.reference import masked
from engine.test_cache import merged
from saccade.core.layout import Layout
from saccade.core.pricing import cost
from saccade.engine import apply
from saccade.families import find
from saccade.plans.plan import Plan
from support.models import FACTORIES, SQUARE, WIDE, tiny_llava, tiny_qwen

SAMPLES = [[3, SQUARE, 5], [6], [2, SQUARE, 1, SQUARE, 2]]
SPECS = ("vskip(layers=1-3)", "ffn_skip(layers=0,2)", "vtw(layer=2)")


def without(inputs: dict, *keys: str) -> dict:
    return {k: v for k, v in inputs.items() if k not in keys}


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("spec", SPECS)
def test_logits_equal_the_masked_reference(tiny, spec, padding):
    inputs = tiny.batch(SAMPLES, padding=padding)
    real = inputs["attention_mask"].bool()
    with torch.no_grad():
        with masked(tiny.model, spec, inputs):
            want = tiny.model(**inputs, use_cache=False).logits[real]
        with apply(tiny.model, spec):
            got = tiny.model(**inputs).logits[real]
    torch.testing.assert_close(got, want, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("spec", SPECS)
def test_a_call_without_a_mask_is_a_call_with_ones(tiny, spec):
    inputs = tiny.batch([SAMPLES[0]])
    bare = without(inputs, "attention_mask")
    with torch.no_grad(), apply(tiny.model, spec):
        want = tiny.model(**inputs).logits
        for use_cache in (True, False):
            got = tiny.model(**bare, use_cache=use_cache).logits
            torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(tiny.model(**bare, labels=bare["input_ids"]).logits, want)
        tokens = tiny.model.generate(**bare, max_new_tokens=3, do_sample=False)
        assert torch.equal(tokens, tiny.model.generate(**inputs, max_new_tokens=3, do_sample=False))


@pytest.mark.parametrize("spec", SPECS)
def test_output_attentions_is_refused_however_it_is_asked_for(tiny, spec):
    inputs = tiny.batch([SAMPLES[0]])
    config = tiny.model.model.language_model.config
    with apply(tiny.model, spec):
        with pytest.raises(ValueError, match="output_attentions is not available under a plan"):
            tiny.model(**inputs, output_attentions=True)
        with pytest.raises(ValueError, match="output_attentions is not available under a plan"):
            tiny.model.generate(
                **inputs, max_new_tokens=2, output_attentions=True, return_dict_in_generate=True
            )
        implementation = config._attn_implementation
        tiny.model.set_attn_implementation("eager")
        config.output_attentions = True
        try:
            with pytest.raises(ValueError, match="output_attentions is not available under a plan"):
                tiny.model(**inputs)
        finally:
            config.output_attentions = False
            tiny.model.set_attn_implementation(implementation)


@pytest.mark.parametrize("spec", SPECS)
def test_hidden_states_are_those_of_the_masked_reference(tiny, spec):
    inputs = tiny.batch(SAMPLES)
    real = inputs["attention_mask"].bool()
    with torch.no_grad():
        with masked(tiny.model, spec, inputs):
            want = tiny.model(**inputs, use_cache=False, output_hidden_states=True).hidden_states
        with apply(tiny.model, spec):
            got = tiny.model(**inputs, output_hidden_states=True).hidden_states
    assert len(got) == len(want) == 5
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a[real], b[real], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["4-D", "mapping"])
def test_ready_made_masks_are_refused_only_where_a_plan_would_act(llava, kind):
    inputs, text = llava.batch([SAMPLES[0]]), llava.batch([[6]])
    mask = torch.ones(24, 24, dtype=torch.bool).tril()[None, None]
    with apply(llava.model, SPECS[0]):
        with pytest.raises(ValueError, match="ready-made attention mask"):
            core = llava.model.model
            core(**inputs | {"attention_mask": mask if kind == "4-D" else {"full_attention": mask}})
        llava.model(**text | {"attention_mask": mask[:, :, :6, :6]})


def test_a_mask_of_another_length_is_refused(llava):
    inputs = llava.batch([SAMPLES[0]])
    with torch.no_grad(), apply(llava.model, "vtw(layer=1)"):
        cache = llava.model(**inputs).past_key_values
        new = {"input_ids": torch.tensor([[9, 10]]), "attention_mask": torch.ones(1, 2, dtype=torch.long)}
        with pytest.raises(ValueError, match="give the mask of the full sequence"):
            llava.model(**new, past_key_values=cache)


def test_packed_positions_are_refused(llava, qwen):
    packed = torch.cat([torch.arange(14), torch.arange(10)])[None]
    bare = without(llava.batch([SAMPLES[0]]), "attention_mask")
    with apply(llava.model, SPECS[0]), pytest.raises(ValueError, match="packed sequences"):
        llava.model(**bare, position_ids=packed, use_cache=False)
    bare = without(qwen.batch([SAMPLES[0]]), "attention_mask")
    rows = bare["input_ids"].shape[1]
    text = torch.cat([torch.arange(rows - 6), torch.arange(6)])
    with apply(qwen.model, SPECS[0]), pytest.raises(ValueError, match="packed sequences"):
        qwen.model(**bare, position_ids=text.expand(4, 1, rows), use_cache=False)


@pytest.mark.parametrize("spec", SPECS)
def test_positions_may_be_given(llava, qwen, spec):
    for tiny in (llava, qwen):
        inputs = tiny.batch([SAMPLES[0]])
        rows = inputs["input_ids"].shape[1]
        with torch.no_grad(), apply(tiny.model, spec):
            want = tiny.model(**inputs).logits
            if tiny is llava:
                given = torch.arange(rows)[None]
            else:
                types = inputs["mm_token_type_ids"]
                grid = inputs["image_grid_thw"]
                given, _ = qwen.model.model.get_rope_index(
                    inputs["input_ids"], image_grid_thw=grid, mm_token_type_ids=types
                )
                given = torch.cat([torch.arange(rows).expand(1, 1, rows), given])
            for bare in (inputs, without(inputs, "attention_mask")):
                got = tiny.model(**bare, position_ids=given).logits
                torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
        with torch.no_grad(), masked(tiny.model, spec, inputs):
            shifted = tiny.model(**inputs, position_ids=given + 3, use_cache=False).logits
        with torch.no_grad(), apply(tiny.model, spec):
            got = tiny.model(**inputs, position_ids=given + 3).logits
        torch.testing.assert_close(got, shifted, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("name", ["llava-llama", "llava_next-llama"])
def test_embeddings_in_place_of_token_ids(name, spec):
    tiny = FACTORIES[name]()
    inputs = tiny.batch(SAMPLES)
    embeds = tiny.model.get_input_embeddings()(inputs["input_ids"])
    given = without(inputs, "input_ids") | {"inputs_embeds": embeds}
    with torch.no_grad(), apply(tiny.model, spec):
        assert torch.equal(tiny.model(**given).logits, tiny.model(**inputs).logits)


@pytest.mark.parametrize("spec", SPECS)
def test_merged_embeddings_with_their_layout(llava, spec):
    inputs = llava.batch(SAMPLES)
    embeds = merged(llava.model, inputs)
    layout = Layout.from_mask(llava.visual(inputs), inputs["attention_mask"])
    given = {"inputs_embeds": embeds, "attention_mask": inputs["attention_mask"]}
    decoder = llava.model.model.language_model
    with torch.no_grad(), apply(llava.model, spec) as attachment:
        want = llava.model(**inputs).logits
        with warnings.catch_warnings(), attachment.with_layout(layout):
            warnings.simplefilter("error")
            assert torch.equal(llava.model(**given).logits, want)
            assert torch.equal(llava.model.lm_head(decoder(**given).last_hidden_state), want)
        with pytest.warns(UserWarning, match="give the layout with Attachment.with_layout"):
            unaware = llava.model(**given).logits
    with torch.no_grad():
        assert torch.equal(unaware, llava.model(**inputs).logits)


def test_a_layout_of_another_shape_is_refused_and_forgotten(llava):
    inputs = llava.batch([SAMPLES[0]])
    with torch.no_grad(), apply(llava.model, SPECS[0]) as attachment:
        want = llava.model(**inputs).logits
        refused = pytest.raises(ValueError, match=r"layout is of 1 x 20 rows, the forward of 1 x 24")
        with refused, attachment.with_layout(Layout.single(16, 4)):
            llava.model(**inputs)
        assert torch.equal(llava.model(**inputs).logits, want)


@pytest.mark.parametrize(
    "spec", ["vskip(layers=0)+ffn_skip(layers=1)+vtw(layer=2)", "vskip(layers=0-3,reading=mask)"]
)
@pytest.mark.parametrize(
    ("family", "dtype"), [("llava", torch.bfloat16), ("llava", torch.float16), ("qwen", torch.bfloat16)]
)
def test_half_precision_stays_near_full_precision(family, dtype, spec):
    make = {"llava": tiny_llava, "qwen": tiny_qwen}[family]
    full, half = make(), make(dtype=dtype)
    inputs = full.batch(SAMPLES)
    real = inputs["attention_mask"].bool()
    with torch.no_grad():
        stock_error = (half.model(**half.batch(SAMPLES)).logits.float() - full.model(**inputs).logits)[
            real
        ].abs()
        with apply(full.model, spec), apply(half.model, spec):
            want = full.model(**inputs).logits[real]
            got = half.model(**half.batch(SAMPLES)).logits
            tokens = half.model.generate(**half.batch(SAMPLES), max_new_tokens=3, do_sample=False)
    assert got.dtype == dtype and tokens.shape[1] == inputs["input_ids"].shape[1] + 3
    error = (got[real].float() - want).abs()
    assert error.mean() < 2 * stock_error.mean() and torch.isfinite(got[real]).all()


@pytest.mark.parametrize("spec", ["vskip(layers=0)+ffn_skip(layers=1)+vtw(layer=2)"])
def test_autocast_stays_near_full_precision(llava, spec):
    inputs = llava.batch(SAMPLES)
    real = inputs["attention_mask"].bool()
    cast = torch.autocast("cpu", dtype=torch.bfloat16)
    with torch.no_grad():
        want = llava.model(**inputs).logits[real]
        with cast:
            stock_error = (llava.model(**inputs).logits[real].float() - want).abs().mean()
        with apply(llava.model, spec):
            want = llava.model(**inputs).logits[real]
            with cast:
                got = llava.model(**inputs).logits[real]
                llava.model.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert (got.float() - want).abs().mean() < 2 * stock_error


@pytest.mark.parametrize("name", ["llava_next-llama", "internvl-qwen2"])
def test_a_default_device_is_not_that_of_host_tensors(name):
    """As after ``torch.set_default_device("cuda")``; here on one that only the stock model can bear."""
    tiny = FACTORIES[name]()
    inputs = tiny.batch([[3, SQUARE, 5], [2, WIDE, 4]])
    shape = find(tiny.model).shape(tiny.model.config)
    spec = "vskip(layers=1-2)+vtw(layer=3) fastv(layer=2,keep=0.5) visionzip(dominant=4,contextual=2)"
    specs = f"{spec} uniform(keep=0.5) pool() prumerge() random(keep=0.5) skip_vision(cache=none)".split()

    def run(spec: str) -> list:
        program = Plan.of(spec).program(Layout.single(20, 10), 4)
        with torch.no_grad(), apply(tiny.model, spec) as handle, handle.tracing():
            logits = tiny.model(**inputs).logits
            tokens = tiny.model.generate(**inputs, max_new_tokens=2, do_sample=False)
        return [logits, tokens, torch.tensor(cost(shape, program.nominal()).executed_tflops, device="cpu")]

    want = [run(spec) for spec in specs]
    with torch.device("meta"):
        got = [run(spec) for spec in specs]
    for spec, one, other in zip(specs, got, want, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True)), spec
