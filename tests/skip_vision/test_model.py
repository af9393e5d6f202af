"""The wrapped model: the method on the decoder, skip KV-cache, gradients; against a slow account."""

import pytest
import torch

import saccade
from saccade.core.layout import Layout
from saccade.engine.cache import kv_lengths
from saccade.methods.skip_vision import SkipVision
from saccade.skip_vision import SkipVisionConfig, ablation_row, wrapped
from skip_vision.slow import dense, marks, recomputing, roles
from skip_vision.small import PICTURE, SCENES, cos, made
from support.models import IMAGE
from support.reference import extend, gap
from support.turns import next_turn

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


@pytest.mark.parametrize("layer", [1, 3])
@pytest.mark.parametrize("cache", ["none", "small"])
def test_the_first_layers_may_keep_their_ffns(layer, cache):
    tiny, _ = made(_with(cos(11), skip_ffn_layer=layer, cache=cache))
    names, inputs = names_of(11), tiny.batch(SCENES["ragged"])
    skips = marks(inputs, IMAGE, names, {"S"})
    with torch.no_grad():
        ours = tiny.model(**inputs).logits
        with recomputing(tiny.model, skips, layer=layer):
            theirs = tiny.model(**inputs, use_cache=False).logits
        with recomputing(tiny.model, skips):
            from_first = tiny.model(**inputs, use_cache=False).logits
    real = inputs["attention_mask"]
    assert gap(ours, theirs, real) < 1e-5 and gap(ours, from_first, real) > 1e-3
    (method,) = wrapped(tiny.model).attachment.plan.methods
    route = method.route(Layout.single(len(names), 2), 4).check()
    held = len(names) + 2 - (names.count("S") if cache == "small" else 0)
    for number, found in enumerate(route.layers):
        gone = names.count("S") if number >= layer else 0
        assert int(found.ffn_BN.sum()) == len(names) + 2 - gone and int(found.held_BN.sum()) == held


PUBLISHED = {
    0: (1296, 1296), 1: (528, 528), 2: (1296, 272), 3: (1296, 273), 4: (1297, 273), 5: (1297, 274),
    6: (1298, 274), 7: (529, 273), 8: (530, 274), 9: (529, 274), 10: (530, 275), 11: (530, 275),
}  # fmt: skip
"""Rows that attend and rows that pass the FFN, per image, of the paper's Table 6."""


@pytest.mark.parametrize("row", PUBLISHED)
def test_the_published_counts(row):
    config = ablation_row(row)
    attend, pass_ffn = PUBLISHED[row]
    assert config.projected(1024) == 1296 and config.length(1296) == attend
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
    with torch.no_grad(), recomputing(tiny.model, skips, (gone, prompt)):
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


@pytest.mark.parametrize(
    "second", [[[3], [5]], [[2, PICTURE, 1], [1, PICTURE, PICTURE]]], ids=["text", "image"]
)
@pytest.mark.parametrize("level", ["small", "middle+small"])
def test_a_later_turn_finds_what_the_first_one_left_in_the_cache(level, second):
    tiny, _ = made(_with(cos(11), cache=level))
    names, first = names_of(11), [[3, PICTURE, 5], [2, PICTURE, PICTURE, 6]]
    left = {"S", "M"} if level == "middle+small" else {"S"}
    options = dict(do_sample=False, output_logits=True, return_dict_in_generate=True)
    inputs = tiny.batch(first)
    said = tiny.model.generate(**inputs, max_new_tokens=3, **options)
    cached, full = next_turn(tiny, first, inputs, said.sequences, second)
    ours = tiny.model.generate(**cached, max_new_tokens=4, past_key_values=said.past_key_values, **options)
    once, twice = inputs["input_ids"].shape[1], full["input_ids"].shape[1]
    whole = extend(full, ours.sequences)
    positions = (whole["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    gone = [(marks(given, IMAGE, names, left), since) for given, since in ((inputs, once), (full, twice))]
    with torch.no_grad(), recomputing(tiny.model, marks(full, IMAGE, names, {"S"}), *gone):
        theirs = tiny.model(**whole, position_ids=positions, use_cache=False).logits[:, twice - 1 : -1]
    assert gap(torch.stack(ours.logits, 1), theirs) < 1e-5


def test_beams_keep_the_rows_in_step():
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
