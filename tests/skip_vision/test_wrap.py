"""Wrapping a stock model: its layouts, what it refuses, other plans beside it, and taking it off again."""

from typing import get_args

import pytest
import torch

import saccade
from saccade.engine.cache import kv_lengths
from saccade.families import FAMILIES, unwrap
from saccade.models import wrap as pair
from saccade.skip_vision import SkipVisionConfig, unwrap_skip_vision, wrap, wrapped
from saccade.skip_vision.config import LayoutName
from skip_vision.slow import marks, recomputing, roles
from skip_vision.small import PICTURE, SCENES, cos, made
from support.models import BIG, IMAGE, SQUARE, WIDE, tiny_llava, tiny_llava_next, tiny_qwen
from support.reference import gap


def test_the_most_attended_patches_are_retained_in_raster_order():
    tiny, _ = made(SkipVisionConfig(retained=5, merged=None, skip_ffn=False, former=False, latter=False))
    inputs = tiny.batch(SCENES["single"])
    core = tiny.model.model
    tower = core.vision_tower
    tower.set_attn_implementation("eager")
    with torch.no_grad():
        seen = tower(inputs["pixel_values"], output_attentions=True, output_hidden_states=True)
        rows = core.get_image_features(inputs["pixel_values"]).pooler_output[0]
        layer = core.config.vision_feature_layer
        attention = seen.attentions[layer][0, :, 0, 1:].sum(0)
        best = attention.topk(5).indices.sort().values.tolist()
        order = best + [p for p in range(16) if p not in best]
        expected = wrapped(tiny.model).abstractor.project(seen.hidden_states[layer][0, 1:][order])
    torch.testing.assert_close(rows, expected, atol=1e-5, rtol=1e-5)


def test_anyres_retains_the_whole_picture_and_merges_the_tiles():
    tiny = tiny_llava_next()
    loaded = pair(tiny.model, None, "next")
    with torch.no_grad():
        inputs = tiny.batch([[2, BIG, 3]])
        stock = tiny.model.model.get_image_features(
            inputs["pixel_values"], inputs["image_sizes"]
        ).pooler_output[0]
    wrap(loaded, SkipVisionConfig(layout="llava-hd", merged=8, learned_summary=False))
    with torch.no_grad():
        rows = tiny.model.model.get_image_features(
            inputs["pixel_values"], inputs["image_sizes"]
        ).pooler_output[0]
    assert len(rows) == 9 + 1 + 8 + 1
    torch.testing.assert_close(rows[:9], stock[:9])
    torch.testing.assert_close(rows[9], stock[:9].mean(0), atol=1e-5, rtol=1e-5)
    ragged = tiny.batch([[3, SQUARE, 5], [4], [2, WIDE, 1, BIG, 3]])
    names = roles(0, 9, 8, fs=True, ls=True, lv=False)
    with torch.no_grad():
        ours = tiny.model(**ragged).logits
        with recomputing(tiny.model, marks(ragged, IMAGE, names, {"S"})):
            theirs = tiny.model(**ragged, use_cache=False).logits
    assert gap(ours, theirs, ragged["attention_mask"]) < 1e-5


def test_text_alone_is_the_stock_model_and_unwrapping_leaves_no_trace():
    tiny = tiny_llava()
    inputs, words = tiny.batch(SCENES["single"]), tiny.batch([[6], [3]])
    before = dict(vars(tiny.model.model)), list(tiny.model.state_dict())
    with torch.no_grad():
        stock, text = tiny.model(**inputs).logits, tiny.model(**words).logits
        loaded = wrap(pair(tiny.model, None, "tiny"), cos(11))
        assert torch.equal(tiny.model(**words).logits, text)
        unwrap_skip_vision(loaded)
        assert torch.equal(tiny.model(**inputs).logits, stock)
    assert before[1] == list(tiny.model.state_dict()) and before[0].keys() == vars(tiny.model.model).keys()


def test_other_plans_run_over_the_models_own():
    tiny, _ = made(cos(10))
    inputs = tiny.batch(SCENES["ragged"])
    own = saccade.engine.attached(tiny.model)
    with torch.no_grad():
        before = tiny.model(**inputs).logits
        with saccade.apply(tiny.model, "vtw(layer=2)") as above:
            assert [m.name for m in above.plan.methods] == ["skip_vision", "vtw"]
            assert gap(tiny.model(**inputs).logits, before) > 1e-3
        with pytest.raises(ValueError, match="layer 9"):
            saccade.apply(tiny.model, "vtw(layer=9)")
        assert saccade.engine.attached(tiny.model) is own
        assert torch.equal(tiny.model(**inputs).logits, before)


@pytest.mark.parametrize(
    ("build", "config", "message"),
    [
        (tiny_qwen, SkipVisionConfig(), "split=grid"),
        (tiny_qwen, SkipVisionConfig(layout="llava-hd"), "split=grid"),
        (tiny_llava, SkipVisionConfig(layout="llava-hd"), "needs tiles"),
        (tiny_llava_next, SkipVisionConfig(), "llava-hd"),
        (tiny_llava, SkipVisionConfig(retained=17), "17 rows are to be retained, but an image has 16"),
        (tiny_llava, SkipVisionConfig(layout="cos"), "do not tile"),
        (tiny_llava, SkipVisionConfig(image_size=41), "a multiple of 8"),
        (tiny_llava, SkipVisionConfig(retained=4, skip_ffn_layer=4), "layer 4 is past the model's 4 layers"),
        (tiny_llava_next, SkipVisionConfig(layout="llava-hd", image_size=48), "leave image_size"),
    ],
)
def test_what_cannot_be_wrapped_says_why_and_is_left_alone(build, config, message):
    tiny = build()
    loaded = pair(tiny.model, None, "tiny")
    before = vars(unwrap(tiny.model).model).keys()
    with pytest.raises(ValueError, match=message):
        wrap(loaded, config)
    assert wrapped(tiny.model) is None and vars(unwrap(tiny.model).model).keys() == before
    assert saccade.engine.attached(tiny.model) is None


def test_a_model_keeps_its_trained_abstractor_where_another_does_not_fit():
    tiny, loaded = made(cos(10))
    inputs, own = tiny.batch(SCENES["single"]), wrapped(tiny.model).abstractor
    with torch.no_grad():
        before = tiny.model(**inputs).logits
        for change in (dict(layout="cos"), dict(retained=17), dict(layout="llava-hd")):
            with pytest.raises(ValueError, match=r"do not tile|are to be retained|needs tiles"):
                wrap(loaded, SkipVisionConfig(**change))
            assert wrapped(tiny.model).abstractor is own
            assert torch.equal(tiny.model(**inputs).logits, before)


VICTOR = dict(retained=4, merged=None, skip_ffn=False, former=False, latter=False)


def test_trained_registers_go_on_into_another_layout():
    tiny, loaded = made(SkipVisionConfig(**VICTOR, registers=3, register_layer=2))
    inputs, own = tiny.batch(SCENES["single"]), wrapped(tiny.model).abstractor
    trained = own.registers.detach().clone()
    with torch.no_grad():
        before = tiny.model(**inputs).logits
        with pytest.raises(ValueError, match="3 trained registers, which cannot become 5"):
            wrap(loaded, SkipVisionConfig(**VICTOR, registers=5))
        assert wrapped(tiny.model).abstractor is own and torch.equal(tiny.model(**inputs).logits, before)
        wrap(loaded, SkipVisionConfig(**VICTOR | dict(retained=6), registers=3, register_layer=1))
        assert wrapped(tiny.model).abstractor is not own
        assert torch.equal(wrapped(tiny.model).abstractor.registers, trained)
        rows = tiny.model.model.get_image_features(inputs["pixel_values"]).pooler_output[0]
        assert torch.equal(rows[-3:], trained)
    # A layout without registers is asked for by name, and starts without them.
    wrap(loaded, SkipVisionConfig(retained=4, merged=5))
    assert wrapped(tiny.model).abstractor.registers is None


def test_a_processor_is_left_alone_where_rows_are_too_few():
    loaded = saccade.load("glance")
    before = str(loaded.processor), loaded.model.model.multi_modal_projector
    with pytest.raises(ValueError, match="1000 rows are to be retained"):
        wrap(loaded, SkipVisionConfig(retained=1000))
    assert (str(loaded.processor), loaded.model.model.multi_modal_projector) == before


def test_a_family_says_which_layouts_it_has(monkeypatch):
    assert {name for family in FAMILIES.values() for name in family.layouts} == set(get_args(LayoutName))
    loaded = pair(tiny_llava().model, None, "tiny")
    monkeypatch.setattr(type(loaded.family), "layouts", ("cos",))
    with pytest.raises(ValueError, match=r"llava needs images in one view .*for LLaVA-1.5 choose cos"):
        wrap(loaded, SkipVisionConfig(retained=4))


@pytest.mark.parametrize(
    ("build", "size", "config"),
    [
        (tiny_llava, PICTURE, SkipVisionConfig(retained=4, merged=5)),
        (tiny_llava, PICTURE, cos(10)),
        (tiny_llava_next, BIG, SkipVisionConfig(layout="llava-hd", merged=8)),
    ],
)
def test_a_picture_of_a_wrapped_model_knows_how_long_images_are_and_no_more(build, size, config):
    tiny = build()
    loaded = wrap(pair(tiny.model, None, "tiny"), config)
    inputs = tiny.batch([[3, size, 5], [2, size, size]])
    counts = (inputs["input_ids"] == IMAGE).sum(1).tolist()
    with torch.no_grad():
        features = tiny.model.model.get_image_features(
            **{k: v for k, v in inputs.items() if k in ("pixel_values", "image_sizes")}
        )
    pixels = inputs.pop("pixel_values")
    for given in ({"pixel_values": pixels}, {"mm_encoder_outputs": {"image": features}}):
        shown = loaded.family.picture(tiny.model, inputs | given)
        assert shown.lengths == (counts[0],) * 3 and counts[1] == 2 * counts[0] and not shown.mapped
    assert loaded.family.picture(tiny.model, inputs) is None


@pytest.mark.parametrize("build", [tiny_llava, tiny_llava_next, tiny_qwen])
@pytest.mark.parametrize(
    "spec", ["skip_vision(retained=0.25,split=grid,cache=small)", "victor(registers=2,layer=2)"]
)
def test_without_wrapping_the_method_works_by_place_on_any_family(build, spec):
    tiny = build()
    inputs = tiny.batch([[3, SQUARE, 5], [4], [2, WIDE, 1, SQUARE, 3]])
    visual = tiny.visual(inputs)
    with saccade.apply(tiny.model, spec):
        out = tiny.model.generate(**inputs, max_new_tokens=3, return_dict_in_generate=True)
    text = (inputs["attention_mask"].bool() & ~visual).sum(1)
    lengths = kv_lengths(out.past_key_values)
    assert lengths[-1] < inputs["input_ids"].shape[1] and lengths[-1] >= int(text.max()) + 2


def test_a_stock_model_is_told_to_be_wrapped_first():
    tiny = tiny_llava()
    plan = "skip_vision(retained=4,skipped=5,former=true,latter=true)"
    with saccade.apply(tiny.model, plan), pytest.raises(ValueError, match="wrapped for it"):
        tiny.model(**tiny.batch(SCENES["single"]))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("skip_vision(layer=-1)", "layer is the number of a layer from 0"),
        ("skip_vision(layer=2,ffn=false,cache=small)", "with ffn=false none is"),
        ("skip_vision(layer=4)", "layer 4 is past the model's 4 layers"),
    ],
)
def test_a_first_layer_that_cannot_be_is_named(spec, message):
    with pytest.raises(ValueError, match=message):
        saccade.apply(tiny_llava().model, spec)


@pytest.mark.parametrize("build", [tiny_llava, tiny_llava_next, tiny_qwen])
def test_with_every_row_retained_it_is_the_stock_model(build):
    tiny = build()
    inputs = tiny.batch([[3, SQUARE, 5], [4], [2, WIDE, 1, SQUARE, 3]])
    with torch.no_grad():
        stock = tiny.model(**inputs).logits
        with saccade.apply(tiny.model, "skip_vision(retained=1.0,cache=small)"):
            assert torch.equal(tiny.model(**inputs).logits, stock)


def test_methods_that_rank_patches_are_told_that_rows_are_none():
    tiny, _ = made(cos(10))
    inputs = tiny.batch(SCENES["single"])
    with (
        saccade.apply(tiny.model, "fastervlm(keep=0.5)"),
        pytest.raises(ValueError, match="laid out anew"),
    ):
        tiny.model(**inputs)
    with saccade.apply(tiny.model, "fastv(layer=2,keep=0.5)"):
        assert tiny.model(**inputs).logits.isfinite().all()


def test_a_compiled_model_ranks_patches_by_the_attention_of_its_tower():
    tiny, _ = made(SkipVisionConfig(retained=4, merged=5))
    pixels = tiny.batch(SCENES["single"])["pixel_values"]
    features = tiny.model.model.get_image_features
    torch._dynamo.reset()
    try:
        with torch.no_grad():
            want = features(pixels, return_dict=True).pooler_output
            got = torch.compile(features, backend="eager")(pixels, return_dict=True).pooler_output
    finally:
        torch._dynamo.reset()
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
