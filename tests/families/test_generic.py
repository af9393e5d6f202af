"""An adapter made by inspection is as good as one that somebody wrote, or is refused in one line."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import transformers as T
from torch import nn

import saccade
import saccade.check
from inspected.classes import config_of, kinds, model_of
from inspected.scene import prompts
from inspected.shrink import text_of
from saccade.check import Prompts
from saccade.core.layout import Layout
from saccade.core.pricing import cost
from saccade.core.route import Route
from saccade.families import FAMILIES, adopt, find
from saccade.families.generic import GenericFamily
from saccade.families.recipes import AttentionRecipe
from saccade.measure.counter import dispatched_flops
from saccade.models import wrap
from support.models import FACTORIES, SQUARE, tiny_llava
from support.reference import gap

SAMPLES = [[3, SQUARE, 5], [6], [2, SQUARE, 3]]
PLANS = (
    "vskip(layers=1-2)", "shortv(layers=1)+ffn_skip(layers=2)", "vtw(layer=2)", "fastv(layer=1,keep=0.5)",
    "divprune(keep=0.5)", "token_merge(keep=0.5)",
)  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize(
    "name", ["llava-mistral", "qwen2_5_vl", "qwen3_vl", "llava_onevision", "internvl-qwen3"]
)
def test_it_gives_the_numbers_of_the_adapter_that_somebody_wrote(name):
    tiny = FACTORIES[name](layers=3)
    given = tiny.batch(SAMPLES)
    theirs = {}
    for plan in PLANS:
        with saccade.apply(tiny.model, plan):
            theirs[plan] = tiny.model(**given).logits
    family = GenericFamily.of(tiny.model)
    family.accept(method.name for plan in PLANS for method in saccade.Plan.of(plan).methods)
    adopt(tiny.model, family)
    for plan in PLANS:
        with saccade.apply(tiny.model, plan):
            assert gap(tiny.model(**given).logits, theirs[plan], given["attention_mask"]) < 1e-6, plan


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("mllama", "its layer 1 .* does not run on words alone: pictures are seen by cross-attention"),
        ("florence2", "its decoder layer 0 .* has no mlp, but self_attn, .*encoder_attn"),
        ("paligemma", "its words see later words"),
        ("kimi_k25", "its attention does not know its head_dim"),
        ("blip-2", "does not run on words alone"),
    ],
)
def test_what_is_no_stock_decoder_behind_a_tower_is_refused_in_one_line(kind, why):
    model = model_of(kind)
    if kind in FAMILIES:
        with pytest.raises(ValueError, match=why):
            GenericFamily.of(model)
        return
    with pytest.raises(
        ValueError, match=f"no adapter for model type '{kind}'.*saccade check MODEL --generic"
    ):
        find(model)
    with pytest.raises(ValueError, match=f"none can be made by inspection: .*{why}") as refused:
        find(model, generic=True)
    assert "\n" not in str(refused.value)
    with pytest.raises(ValueError, match="no adapter for model type"):
        find(model)


def _squash(layer):
    layer.self_attn.o_proj.register_forward_hook(lambda m, a, out: out.tanh())
    layer.self_attn.register_forward_hook(lambda m, a, out: (out[0] * 1.5, *out[1:]))


def _mix(layer):
    layer.mlp.register_forward_hook(lambda m, a, out: out + out.mean(1, keepdim=True))


def _shift(layer):
    layer.register_forward_hook(lambda m, a, out: out + 1)


def _skip_norm(layer):
    layer.self_attn.register_forward_pre_hook(
        lambda m, a, kw: (a, kw | {"hidden_states": 2 * kw["hidden_states"]}), with_kwargs=True
    )


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (_squash, "works in a way that is not known; the nearest of the known ways is off by"),
        (_mix, "its FFN does not work row by row"),
        (_shift, "changes rows also where its attention and its FFN are silent"),
        (_skip_norm, "given something else than a norm of the stream"),
    ],
)
def test_a_layer_that_does_something_of_its_own_is_never_taken_for_a_stock_one(spoil, why):
    model = tiny_llava(layers=3).model
    layer = model.model.language_model.layers[1]
    spoil(layer)
    with pytest.raises(ValueError, match=f"layer 1.*{why}"):
        GenericFamily.of(model)


def test_an_attention_with_more_than_its_projections_is_refused():
    model = tiny_llava(layers=2).model
    model.model.language_model.layers[0].self_attn.indexer = nn.Linear(4, 4)
    with pytest.raises(ValueError, match="has indexer beside its projections"):
        GenericFamily.of(model)


def test_what_shows_on_long_prompts_alone_is_refused_by_what_the_attention_calls():
    tiny = tiny_llava(layers=2)
    config = copy.deepcopy(tiny.model.config)
    config.text_config = T.Ministral3Config(**text_of(T.Ministral3Config()))
    with pytest.raises(ValueError, match=r"layer 0: .* calls get_llama_4_attn_scale, which is not known"):
        GenericFamily.of(T.LlavaForConditionalGeneration(config).eval())


def _behind_a_tower(text):
    config = copy.deepcopy(tiny_llava(layers=2).model.config)
    config.text_config = text
    return T.LlavaForConditionalGeneration(config).eval()


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        # Sinks and caps on logits show little where logits are small: not numbers tell them.
        ("GptOss", r"layer 0: its attention \(GptOssAttention\) attends with s_aux too"),
        ("Gemma2", r"layer 0: its attention \(Gemma2Attention\) attends with softcap too"),
    ],
)
def test_an_attention_that_attends_with_more_than_rows_is_refused(kind, why):
    config = getattr(T, f"{kind}Config")
    with pytest.raises(ValueError, match=why):
        GenericFamily.of(_behind_a_tower(config(**text_of(config()))))


def test_what_an_attention_holds_itself_is_refused():
    model = tiny_llava(layers=2).model
    model.model.language_model.layers[1].self_attn.sinks = nn.Parameter(torch.zeros(4))
    with pytest.raises(ValueError, match=r"layer 1: .* has sinks beside its projections"):
        GenericFamily.of(model)


def test_what_a_derived_attention_does_in_methods_of_its_own_is_refused():
    model = tiny_llava(layers=2).model
    attn = model.model.language_model.layers[1].self_attn

    class Remote(type(attn)):
        def grown(self, x):
            return x if x.shape[1] < 100 else 2 * x

        def forward(self, hidden_states, past_key_values=None, **kwargs):
            return super().forward(self.grown(hidden_states), past_key_values=past_key_values, **kwargs)

    attn.__class__ = Remote
    with pytest.raises(ValueError, match=r"layer 1: .* calls grown, which is not known"):
        GenericFamily.of(model)
    # What the class calls that it derives from counts as well.
    config = T.Ministral3Config(**text_of(T.Ministral3Config()))
    model = _behind_a_tower(config)
    attn = model.model.language_model.layers[0].self_attn

    class Derived(type(attn)):
        def forward(self, hidden_states, past_key_values=None, **kwargs):
            return super().forward(hidden_states, past_key_values=past_key_values, **kwargs)

    attn.__class__ = Derived
    with pytest.raises(ValueError, match=r"layer 0: .* calls get_llama_4_attn_scale, which is not known"):
        GenericFamily.of(model)


@pytest.mark.parametrize("gating", ["per-head", "number by number"])
def test_a_gate_on_mixed_values_is_found(gating):
    if gating == "per-head":
        model = model_of("step3p7")
    else:
        model = _behind_a_tower(T.AfmoeConfig(**text_of(T.AfmoeConfig())))
    family = GenericFamily.of(model)
    gates = {recipe["gate"] for recipe in family.told()["attention"]}
    assert gates == {"g_proj" if gating == "per-head" else "gate_proj"}


def test_every_layer_has_a_recipe_of_its_own():
    assert _recipes("vipllava") == {
        AttentionRecipe(("q_proj", "k_proj", "v_proj"), "", "o_proj", turns="apply_rotary_pos_emb")
    }
    (fused,) = _recipes("fuyu")
    assert (fused.projections, fused.layout, fused.output, fused.part) == (
        ("query_key_value",),
        "heads",
        "dense",
        True,
    )
    assert fused.norms == ("q_layernorm", "k_layernorm") and fused.moment == "early"


def _recipes(kind):
    return set(GenericFamily.of(model_of(kind))._found.recipes)


@pytest.fixture(scope="module")
def checked():
    """A class without an adapter, with the report of its check."""
    model = model_of("vipllava")
    loaded = wrap(model, None, "vipllava", generic=True)
    asked = prompts(model, "vipllava", model.config.image_token_index)
    with pytest.raises(
        ValueError, match=r"no check has accepted .* for vskip: run saccade check MODEL --generic"
    ):
        saccade.apply(model, "vskip(layers=1)")
    return loaded, asked, saccade.check.run(loaded, prompts=asked)


def test_a_plan_is_taken_once_a_check_has_accepted_it(checked):
    loaded, _, report = checked
    assert report.passed, [(row.plan, row.why) for row in report.failures]
    wanted = {"vskip", "ffn_skip", "shortv", "vtw", "fastv", "divprune", "uniform"}
    assert wanted <= set(report.accepted)
    assert not {"fastervlm", "visionzip", "prumerge", "tome", "resize"} & set(report.accepted)
    # Of groups that passed: what asks where rows lie in the picture, and what leaves before the tower.
    assert not {"pool", "pixelprune"} & set(report.accepted) and "token_merge" in report.accepted
    saccade.apply(loaded.model, "vskip(layers=1)+uniform(keep=0.5)").remove()
    with pytest.raises(ValueError, match=r"no check has accepted .* for fastervlm"):
        saccade.apply(loaded.model, "fastervlm(keep=0.5)")


def test_one_plan_alone_is_accepted_alone_also_in_half_precision():
    model = model_of("aya_vision").to(torch.bfloat16)
    loaded = wrap(model, None, "aya_vision", generic=True)
    asked = prompts(model, "aya_vision", model.config.image_token_index)
    report = saccade.check.run(loaded, "vtw(layer=2)", prompts=asked)
    assert report.accepted == ("vtw",) and [row.dtype for row in report.rows[::2]] == ["float32", "bfloat16"]
    saccade.apply(model, "vtw(layer=1)").remove()
    with pytest.raises(ValueError, match="for shortv"):
        saccade.apply(model, "shortv(layers=1)")


def test_an_adapter_that_is_wrong_about_anything_is_not_accepted(checked):
    loaded, asked, _ = checked
    model = copy.deepcopy(loaded.model)
    family = GenericFamily.of(model)
    adopt(model, family)
    # Placeholders are another token than the adapter says: the check sees pictures where they are.
    family.visual_ids = lambda config: (7,)
    report = saccade.check.run(wrap(model, None, "vipllava"), "vtw(layer=2)", prompts=asked)
    assert not report.passed and report.accepted == ()
    assert any("the adapter says 0" in row.why for row in report.failures)
    with pytest.raises(ValueError, match="no check has accepted"):
        saccade.apply(model, "vtw(layer=2)")


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        # FFNs that say beside the rows what they did, and are told which rows are a picture's.
        ("ernie4_5_vl_moe", {"layers": [0, 1, 2], "projections": ["q_proj", "k_proj", "v_proj"]}),
        # Layers that recur, and attention with a gate, as the adapter of another family knows them.
        ("minicpmv4_6", {"layers": [1], "lender": "qwen3_5"}),
        # Tables by kind of layer.
        ("cohere_compass", {"layers": [0, 1, 2], "moment": ""}),
        # Layers and modules by other names, in a class that has an adapter.
        ("lfm2_vl", {"layers": [1], "norms": ["q_layernorm", "k_layernorm"], "output": "out_proj"}),
    ],
)
def test_a_decoder_of_an_uncommon_kind_is_taken_apart(kind, told):
    model = model_of(kind)
    family = GenericFamily.of(model)
    adopt(model, family)
    (recipe,) = family.told()["attention"]
    assert told.items() <= recipe.items()
    asked = prompts(model, kind, family.visual_ids(model.config)[0])
    report = saccade.check.run(wrap(model, None, kind), "shortv(layers=1)+uniform(keep=0.5)", prompts=asked)
    assert report.accepted == ("shortv", "uniform"), [(row.plan, row.why) for row in report.failures]


def test_positions_that_the_stock_model_gives_in_a_batch_alone_are_those_of_the_reference():
    # HunYuan counts the pictures of all prompts together.
    model = model_of("hunyuan_vl")
    loaded = wrap(model, None, "hunyuan_vl", generic=True)
    asked = prompts(model, "hunyuan_vl", model.config.image_token_id)
    report = saccade.check.run(loaded, "vtw(layer=2)", prompts=asked)
    assert report.accepted == ("vtw",), [(row.plan, row.why) for row in report.failures]
    assert any("other positions in a batch" in note for note in report.notes)


def test_a_batch_that_the_stock_model_answers_otherwise_for_another_reason_stays_a_failure(checked):
    loaded, asked, _ = checked

    def blur(module, args, output):
        return output if len(output) == 1 else output + output.mean(0, keepdim=True)

    handle = loaded.model.get_input_embeddings().register_forward_hook(blur)
    try:
        report = saccade.check.run(loaded, "vtw(layer=2)", prompts=asked)
    finally:
        handle.remove()
    assert report.rows[0].group == "stock" and report.rows[0].status == "failed"
    assert report.accepted == () and not any("other positions" in note for note in report.notes)


def test_a_decoder_that_a_class_has_no_adapter_for_is_inspected():
    tiny = tiny_llava(layers=2)
    config = copy.deepcopy(tiny.model.config)
    config.text_config = T.Phi3Config(**text_of(T.Phi3Config()), sliding_window=None)
    model = T.LlavaForConditionalGeneration(config).eval()
    with pytest.raises(ValueError, match=r"'phi3' text decoder is not supported.*check MODEL --generic"):
        saccade.apply(model, "vtw(layer=1)")
    loaded = wrap(model, None, "llava-phi3", generic=True)
    given = {name: getattr(tiny, name)(SAMPLES) for name in ("batch", "singles")}
    shown = Prompts(
        given["singles"][0], given["singles"][1], tuple(given["singles"]), given["batch"], (1, 0, 1)
    )
    report = saccade.check.run(loaded, "vtw(layer=1)", prompts=shown)
    assert report.accepted == ("vtw",), [(row.plan, row.why) for row in report.failures]
    saccade.apply(model, "vtw(layer=1)").remove()
    config.text_config = T.Ministral3Config(**text_of(T.Ministral3Config()))
    with pytest.raises(ValueError, match="'llava' with a 'ministral3' text decoder, and none can be made"):
        find(T.LlavaForConditionalGeneration(config).eval(), generic=True)


def test_what_is_added_to_the_rows_of_a_picture_alone_is_refused_by_the_check():
    model = model_of("granite4_vision")
    loaded = wrap(model, None, "granite4_vision", generic=True)
    asked = prompts(model, "granite4_vision", model.config.image_token_index)
    with pytest.raises(ValueError, match="does something to the rows of a picture before its first layer"):
        saccade.check.run(loaded, "vtw(layer=2)", prompts=asked)


@torch.no_grad()
def test_images_of_a_prompt_share_a_budget(checked):
    loaded, asked, _ = checked
    with saccade.apply(loaded.model, "fastv(layer=1,keep=8)") as handle, handle.tracing() as traces:
        loaded.model(**asked.batch)
        loaded.model.generate(**asked.batch, max_new_tokens=2, num_beams=2, do_sample=False)
    assert [len(rows) for rows in traces[0].kept(2)] == [8, 0, 8]
    assert [len(rows) for rows in traces[1].kept(2)] == [8, 8, 0, 0, 8, 8]


def test_rows_of_a_picture_that_see_later_ones_are_refused_by_the_check():
    model = model_of("vipllava")

    def both_ways(module, args, kwargs):
        rows = kwargs["hidden_states"].shape[1]
        return args, kwargs | ({"attention_mask": torch.zeros(1, 1, rows, rows)} if rows > 20 else {})

    loaded = wrap(model, None, "vipllava", generic=True)
    for layer in model.model.language_model.layers:
        layer.self_attn.register_forward_pre_hook(both_ways, with_kwargs=True)
    asked = prompts(model, "vipllava", model.config.image_token_index)
    with pytest.raises(ValueError, match="rows of a picture see later rows of it"):
        saccade.check.run(loaded, "vtw(layer=2)", prompts=asked)


def test_a_prompt_that_the_stock_model_does_not_take_is_told_in_one_line(checked):
    loaded, asked, _ = checked
    short = {key: value[:, 1:].clone() for key, value in asked.picture.items() if key != "pixel_values"}
    short["input_ids"][0, 5] = 30
    wrong = replace(asked, picture={**short, "pixel_values": asked.picture["pixel_values"]})
    with pytest.raises(
        ValueError, match="the stock model does not take a prompt with a picture: Image features"
    ):
        saccade.check.run(loaded, "vtw(layer=2)", prompts=wrong)


def test_a_plan_that_needs_smaller_pictures_is_refused_and_is_no_failure(checked):
    loaded, asked, _ = checked

    def smaller(plan):
        return loaded.family.smaller(None, [], 0.5)

    report = saccade.check.run(loaded, "resize(scale=0.5)", prompts=replace(asked, smaller=smaller))
    assert [row.status for row in report.rows] == ["passed", "refused"] and report.accepted == ()


def test_an_adapter_of_somebody_wins():
    model = tiny_llava(layers=2).model
    assert find(model, generic=True) is FAMILIES["llava"]
    saccade.apply(model, "vtw(layer=1)").remove()


def test_a_decoder_with_experts_is_priced_by_those_that_a_row_passes():
    sparse = GenericFamily().shape(config_of("qwen3_vl_moe"))
    theirs = FAMILIES["qwen3_vl_moe"].shape(config_of("qwen3_vl_moe"))
    assert (sparse.ffn, sparse.experts) == (theirs.ffn, theirs.experts)
    mixed = config_of("glm4v_moe")
    text = mixed.text_config
    experts = (text.num_experts_per_tok + text.n_shared_experts) * text.moe_intermediate_size
    first, *others = GenericFamily().shape(mixed).each_layer
    assert text.first_k_dense_replace == 1 and first.ffn == text.intermediate_size and first.experts is None
    assert {one.ffn for one in others} == {experts}


FED = ("fuyu", "cosmos3_edge", "ernie4_5_vl_moe", "minimax_m3_vl", "got_ocr2")


@torch.no_grad()
@pytest.mark.parametrize("kind", [kind for kind in FED if kind in kinds()])
def test_a_decoder_is_priced_by_the_ffns_that_it_has(kind):
    # FFNs without a gate, what all rows pass beside experts, layers without any: configurations do not say.
    model = model_of(kind)
    ids = torch.arange(30, 50)[None]
    layout = Layout.from_mask(torch.zeros_like(ids).bool(), torch.ones_like(ids).bool())
    shape = GenericFamily.of(model).shape(model.config)
    counted = dispatched_flops(lambda: model(input_ids=ids, use_cache=False, logits_to_keep=1))
    head = 2 * model.get_output_embeddings().weight.numel()
    assert cost(shape, Route.dense(layout, 3)).dense_executed_tflops * 1e12 == pytest.approx(counted - head)


@pytest.mark.parametrize("kind", [kind for kind in ("gemma3n", "dots3_note") if kind in kinds()])
def test_layers_of_sizes_of_their_own_are_refused_in_one_line(kind):
    config = getattr(T, kinds()[kind]).config_class()
    with pytest.raises(ValueError, match="sizes of their own") as said:
        find(config, generic=True)
    assert "\n" not in str(said.value)
