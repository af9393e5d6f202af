"""The wrapped model: layouts, the method on the decoder, skip KV-cache, gradients; against a slow account."""

import pytest
import torch

import saccade
from saccade.engine.cache import kv_lengths
from saccade.families import unwrap
from saccade.layout import Layout
from saccade.methods.skip_vision import SkipVision
from saccade.models import wrap as pair
from saccade.skip_vision import SkipVisionConfig, ablation_row, unwrap_skip_vision, wrap, wrapped
from saccade.skip_vision.chain_of_sight import Scale
from skip_vision.slow import dense, marks, recomputing, roles
from support.models import BIG, IMAGE, SQUARE, WIDE, tiny_llava, tiny_llava_next, tiny_qwen
from support.reference import extend, gap

PICTURE = (32, 32)
COS = dict(layout="cos", scales=(Scale(4, 2), Scale(2, 8), Scale(1, 16)))
SCENES = {"single": [[3, PICTURE, 5]], "ragged": [[3, PICTURE, 5], [4], [2, PICTURE, PICTURE, 6]]}


def cos(row: int, **more) -> SkipVisionConfig:
    return ablation_row(row, SkipVisionConfig(**COS, **more), merged=6)


def made(config: SkipVisionConfig, text: str = "llama"):
    tiny = tiny_llava(text)
    torch.manual_seed(4)
    loaded = wrap(pair(tiny.model, None, "tiny"), config)
    with torch.no_grad():
        for parameter in wrapped(tiny.model).abstractor.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return tiny, loaded


ROWS = {
    0: (16, {}), 1: (6, {}), 2: (16, {}), 3: (16, dict(lv=True)), 4: (16, dict(ls=True)),
    5: (16, dict(ls=True, lv=True)), 6: (16, dict(fs=True, ls=True)), 7: (6, dict(ls=True)),
    8: (6, dict(fs=True, ls=True)), 9: (6, dict(ls=True, lv=True)), 10: (6, dict(fs=True, ls=True, lv=True)),
    11: (6, dict(fs=True, ls=True, lv=True)),
}  # fmt: skip
"""Skipped rows and summaries of every row of the ablation, here with 2 coarse and 8 middle rows."""


def names_of(row: int) -> list[str]:
    skipped, flags = ROWS[row]
    return roles(2, 8, skipped, **(dict(fs=False, ls=False, lv=False) | flags))


@pytest.mark.parametrize("row", range(12))
@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("padding", ["left", "right"])
def test_every_row_of_the_ablation_is_what_its_table_says(row, scene, padding):
    tiny, loaded = made(cos(row))
    names = names_of(row)
    assert loaded.shape.visual == len(names)
    inputs = tiny.batch(SCENES[scene], padding)
    skips = marks(inputs, IMAGE, names, {"S"} if row > 1 else set())
    with torch.no_grad():
        ours = tiny.model(**inputs).logits
        with recomputing(tiny.model, skips):
            theirs = tiny.model(**inputs, use_cache=False).logits
        with dense(tiny.model):
            stock = tiny.model(**inputs).logits
    real = inputs["attention_mask"]
    assert gap(ours, theirs, real) < 1e-5
    assert (gap(ours, stock, real) > 1e-3) == (row > 1)


PUBLISHED = {
    0: (1296, 1296), 1: (528, 528), 2: (1296, 272), 3: (1296, 273), 4: (1297, 273), 5: (1297, 274),
    6: (1298, 274), 7: (529, 273), 8: (530, 274), 9: (529, 274), 10: (530, 275), 11: (530, 275),
}  # fmt: skip
"""Rows that attend and rows that pass the FFN, per image, of the paper's Table 6."""


@pytest.mark.parametrize("row", PUBLISHED)
def test_the_published_counts(row):
    config = ablation_row(row)
    attend, pass_ffn = PUBLISHED[row]
    assert config.length(1296) == attend
    layer = _layer(config, 1296, attend)
    assert int((layer.ffn_BN).sum()) == pass_ffn + 2
    held = {11: 275}.get(row, attend)
    assert int(layer.held_BN.sum()) == held + 2


def _layer(config, rows, attend):
    layout = Layout.single(attend, 2, prefix=1)
    methods = config.methods(rows)
    assert len(methods) <= 1
    return (methods[0] if methods else SkipVision(retained=attend)).route(layout, 3).check().layers[0]


@pytest.mark.parametrize(
    ("retained", "patches", "merged", "attend", "dropped"),
    [(100, 576, 156, 258, (101, 257)), (256, 576, None, 578, (257, 577)), (64, 576, 156, 222, (65, 221))],
)
def test_the_layouts_of_llava(retained, patches, merged, attend, dropped):
    config = SkipVisionConfig(retained=retained, merged=merged, cache="small")
    assert config.length(patches) == attend
    layer = _layer(config, patches, attend)
    gone = (~layer.held_BN[0]).nonzero()[:, 0] - 1
    assert (int(gone[0]), int(gone[-1]) + 1, len(gone)) == (*dropped, dropped[1] - dropped[0])
    assert torch.equal(layer.ffn_BN, layer.held_BN)


def test_middle_and_small_keeps_the_coarse_rows_and_the_summaries():
    config = ablation_row(11, SkipVisionConfig(layout="cos", cache="small"))
    (method,) = SkipVisionConfig.from_dict(config.to_dict() | {"cache": "middle+small"}).methods(1296)
    assert int(method.of_image(530)[1].sum()) == 19


@pytest.mark.parametrize("level", ["small", "middle+small"])
@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("text", ["llama", "qwen2"])
def test_the_skip_kv_cache_is_hiding_from_every_later_token(level, scene, text):
    tiny, _ = made(cos(11, cache=level) if level == "small" else _with(cos(11), cache=level), text)
    names, inputs = names_of(11), tiny.batch(SCENES[scene])
    prompt = inputs["input_ids"].shape[1]
    skips = marks(inputs, IMAGE, names, {"S"})
    gone = marks(inputs, IMAGE, names, {"S", "M"} if level == "middle+small" else {"S"})
    options = dict(max_new_tokens=8, do_sample=False, output_logits=True, return_dict_in_generate=True)
    out = tiny.model.generate(**inputs, **options)
    ours = torch.stack(out.logits, 1)
    whole = extend(inputs, out.sequences)
    positions = (whole["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad(), recomputing(tiny.model, skips, gone, prompt):
        theirs = tiny.model(**whole, position_ids=positions, use_cache=False).logits[:, prompt - 1 : -1]
    assert gap(ours, theirs) < 1e-5
    held = (inputs["attention_mask"].bool() & ~gone).sum(1).max()
    assert set(kv_lengths(out.past_key_values)) == {int(held) + 7}
    with saccade.apply(tiny.model, _plain(tiny.model)):
        kept = tiny.model.generate(**inputs, **options)
    # The first token is chosen before anything leaves; later ones miss what left.
    assert torch.equal(out.logits[0], kept.logits[0]) and not torch.equal(out.logits[-1], kept.logits[-1])


def _with(config, **change):
    return SkipVisionConfig.from_dict(config.to_dict() | change)


def _plain(model):
    """The model's own method without its skip KV-cache."""
    from dataclasses import replace

    (method,) = wrapped(model).attachment.plan.methods
    return replace(method, cache="none")


def test_beams_and_second_turns_keep_the_rows_in_step():
    tiny, _ = made(cos(11))
    inputs = tiny.batch(SCENES["ragged"])
    out = tiny.model.generate(**inputs, max_new_tokens=4, num_beams=3, return_dict_in_generate=True)
    singles = [
        tiny.model.generate(**one, max_new_tokens=4, num_beams=3)[0, one["input_ids"].shape[1] :].tolist()
        for one in tiny.singles(SCENES["ragged"])
    ]
    assert [s.tolist() for s in out.sequences[:, inputs["input_ids"].shape[1] :]] == singles


@pytest.mark.parametrize("config", [cos(10), SkipVisionConfig(retained=4, merged=5)])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_those_of_the_slow_account(config, checkpointing):
    tiny, _ = made(config)
    names = names_of(10) if config.layout == "cos" else roles(0, 4, 5, fs=True, ls=True, lv=False)
    inputs = tiny.batch(SCENES["ragged"], "right")
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    labels = labels.masked_fill(labels == IMAGE, -100)
    tiny.model.train()
    # Its older name is deprecated, its newer one is not in every version.
    kind = "activation" if hasattr(tiny.model, "activation_checkpointing_enable") else "gradient"
    found = {}
    for name in ("ours", "theirs"):
        tiny.model.zero_grad()
        if name == "ours":
            if checkpointing:
                getattr(tiny.model, f"{kind}_checkpointing_enable")(dict(use_reentrant=False))
            loss = tiny.model(**inputs, labels=labels, use_cache=False).loss
            loss.backward()
            if checkpointing:
                getattr(tiny.model, f"{kind}_checkpointing_disable")()
        else:
            with recomputing(tiny.model, marks(inputs, IMAGE, names, {"S"})):
                loss = tiny.model(**inputs, labels=labels, use_cache=False).loss
                loss.backward()
        found[name] = (
            loss.detach(),
            {n: p.grad for n, p in tiny.model.named_parameters() if p.grad is not None},
        )
    torch.testing.assert_close(found["ours"][0], found["theirs"][0], atol=1e-5, rtol=1e-5)
    assert found["ours"][1].keys() == found["theirs"][1].keys()
    for name, grad in found["ours"][1].items():
        torch.testing.assert_close(grad, found["theirs"][1][name], atol=2e-5, rtol=1e-4, msg=name)
    scorer = wrapped(tiny.model).abstractor.scorer
    assert float(scorer.score.weight.grad.abs().max()) > 0


def test_the_former_summary_does_not_see_the_skipped_rows_and_the_latter_does():
    tiny, _ = made(cos(10))
    inputs = tiny.batch(SCENES["single"])
    names = names_of(10)
    first = inputs["input_ids"][0].tolist().index(IMAGE)
    core = tiny.model.model
    stock = core.get_image_features

    def states(shift):
        def features(*args, **kwargs):
            output = stock(*args, **kwargs)
            rows = [r.clone() for r in output.pooler_output]
            rows[0][names.index("S")] += shift
            output.pooler_output = rows
            return output

        core.__dict__["get_image_features"] = features
        try:
            with torch.no_grad():
                return tiny.model(**inputs, output_hidden_states=True).hidden_states[-1][0, first:]
        finally:
            del core.__dict__["get_image_features"]

    before, after = states(0.0), states(1.0)
    changed = (before - after).abs().amax(1) > 1e-6
    assert not changed[names.index("FS")] and changed[names.index("LS")] and changed[names.index("LV")]


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


def test_registers_stand_for_the_image_from_their_layer_on():
    config = SkipVisionConfig(
        retained=16, merged=None, skip_ffn=False, former=False, latter=False, registers=3, register_layer=2
    )
    tiny, loaded = made(config)
    inputs = tiny.batch(SCENES["ragged"])
    assert loaded.shape.visual == 19 and wrapped(tiny.model).abstractor.registers.shape == (3, 64)
    out = tiny.model.generate(**inputs, max_new_tokens=2, return_dict_in_generate=True)
    full = inputs["input_ids"].shape[1]
    rows = max(8 + 3, 4, 8 + 6)
    assert kv_lengths(out.past_key_values) == [full + 1, full + 1, rows + 1, rows + 1]
    loss = tiny.model(**inputs, labels=inputs["input_ids"]).loss
    loss.backward()
    assert float(wrapped(tiny.model).abstractor.registers.grad.abs().max()) > 0


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
        (tiny_llava, SkipVisionConfig(layout="llava-hd"), "needs tiles"),
        (tiny_llava_next, SkipVisionConfig(), "llava-hd"),
        (tiny_llava, SkipVisionConfig(retained=17), "17 rows are to be retained, but an image has 16"),
        (tiny_llava, SkipVisionConfig(layout="cos"), "do not tile"),
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
        pytest.raises(ValueError, match="lays rows out anew"),
    ):
        tiny.model(**inputs)
    with saccade.apply(tiny.model, "fastv(layer=2,keep=0.5)"):
        assert tiny.model(**inputs).logits.isfinite().all()
