"""What is seen in the vision tower: scores, keys and features, against plain attention maps."""

from __future__ import annotations

import copy
import threading
from itertools import pairwise

import pytest
import torch
import transformers as T
from torch import nn

from saccade import models
from saccade.core.layout import Layout
from saccade.engine import apply, tower_scores
from saccade.engine.tower import TowerTap, allow_other_sizes, grid, vision
from saccade.families import find
from support.looking import BOTH, look
from support.models import (
    BIG,
    FACTORIES,
    SQUARE,
    TALL,
    VISION_START,
    WIDE,
    tiny_llava,
    tiny_llava_next,
    tiny_qwen,
)

SAMPLES = [[3, SQUARE, 2], [4], [1, WIDE, 2, TALL, 1], [2, BIG, 1]]
LLAVAS = ["llava-llama", "llava_next-llama"]
OTHERS = ["qwen2_5_vl", "llava_onevision", "internvl-qwen2"]


def siglip(layers: int = 3) -> T.LlavaForConditionalGeneration:
    config = tiny_llava().model.config
    config.vision_config = T.SiglipVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=layers, num_attention_heads=2, image_size=32,
        patch_size=8,
    )  # fmt: skip
    config.vision_feature_select_strategy = "full"
    torch.manual_seed(0)
    model = T.LlavaForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.model.vision_tower.parameters():
            if parameter.ndim == 2:
                parameter.copy_(torch.randn(parameter.shape) * 1.5 * parameter.shape[-1] ** -0.5)
    return model


def unpacked(given) -> torch.Tensor:
    """Views of a batch, one after another."""
    pixels = given["pixel_values"]
    if pixels.ndim == 4:
        return pixels
    from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

    grids = [[24, 48], [48, 24], [48, 48]]
    counts = [image_size_to_num_patches(size.tolist(), grids, 24) for size in given["image_sizes"]]
    return torch.cat([image[:n] for image, n in zip(pixels, counts, strict=True)])


@pytest.mark.parametrize("which", ["made", "reads"])
@pytest.mark.parametrize("name", LLAVAS)
@torch.no_grad()
def test_a_cls_tower_tells_what_its_own_attention_maps_do(name, which):
    tiny = FACTORIES[name]()
    given = tiny.batch(SAMPLES)
    found, layout, captured, embeddings = look(tiny.model, given, which=which)
    shown = captured.picture
    tower, core = tiny.model.model.vision_tower, tiny.model.model
    tower.set_attn_implementation("eager")
    out = tower(unpacked(given), output_attentions=True, output_hidden_states=True)
    tower.set_attn_implementation("sdpa")
    # Two layers, features are what leaves the first: it made them, the second reads them.
    number = {"made": 0, "reads": 1}[which]
    layer = tower.encoder.layers[number]
    normed = layer.layer_norm1(out.hidden_states[number])
    keys, queries = layer.self_attn.k_proj(normed), layer.self_attn.q_proj(normed)
    attention = out.attentions[number][:, :, 0, 1:].mean(1).flatten()
    single = ((queries[:, :1] @ keys.transpose(1, 2)) * 32**-0.5).softmax(-1)[:, 0, 1:].flatten()
    states = out.hidden_states[1]
    at = layout.visual_BN
    kept = torch.tensor([p >= 0 for p in shown.patch_R.tolist()])
    patches = shown.patch_R.clamp(min=0)
    assert torch.equal(found.patch_BN[at], kept)
    for ours, theirs in (
        (found.attention_BN, attention),
        (found.single_BN, single),
        (found.keys_BNV, keys[:, 1:].flatten(0, 1)),
        (found.features_BNV, states[:, 1:].flatten(0, 1)),
    ):
        expected = theirs[patches] * kept.view(-1, *[1] * (theirs.ndim - 1))
        assert torch.allclose(ours[at], expected, atol=1e-5)
        assert bool((ours[~at] == 0).all())
    assert found.heads == 2 and found.attention_BN.dtype == torch.float32
    assert torch.allclose(found.cls_TV, states[:, 0], atol=1e-6)
    assert torch.equal(found.view_BN[at], shown.view_R) and bool((found.view_BN[~at] == -1).all())
    # Features become the decoder's own embeddings.
    where = found.patch_BN
    assert torch.allclose(found.project(found.features_BNV)[where], embeddings[where], atol=1e-5)
    assert found.into_BN is None and core is tiny.model.model


@torch.no_grad()
def test_a_tower_without_cls_row_counts_attention_received(monkeypatch):
    model = siglip()
    given = {"input_ids": torch.tensor([[8, *[3] * 16, 9, *[3] * 16]]), "attention_mask": torch.ones(1, 34)}
    given["pixel_values"] = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found, layout, _, embeddings = look(model, given)
    tower = model.model.vision_tower
    tower.set_attn_implementation("eager")
    out = tower(given["pixel_values"], output_attentions=True, output_hidden_states=True)
    tower.set_attn_implementation("sdpa")
    # Three layers, feature layer -2: what leaves the second.
    expected = torch.zeros(2, 16)
    for head in range(2):
        for row in range(16):
            expected += out.attentions[1][:, head, row] / 2
    at = layout.visual_BN
    assert torch.allclose(found.attention_BN[at], expected.flatten(), atol=1e-5)
    assert found.cls_TV is None
    assert torch.allclose(found.project(found.features_BNV)[at], embeddings[at], atol=1e-5)
    monkeypatch.setattr(tower_scores, "CHUNK", 1)
    again = look(model, given)[0]
    assert torch.allclose(again.attention_BN, found.attention_BN, atol=1e-6)
    assert torch.allclose(again.single_BN, found.single_BN, atol=1e-6)


@pytest.mark.parametrize("whole", [True, False], ids=["all see all", "windows"])
@torch.no_grad()
def test_qwen_averages_over_what_it_merges_in_the_order_of_the_rows(whole):
    """Row by row: the rows of the last block are told apart by what the merger makes of them."""
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision

    tiny = tiny_qwen()
    if not whole:
        tiny.model.model.visual.fullatt_block_indexes = [0]
    given = tiny.batch([[3, SQUARE, 2], [1, WIDE, 2, (40, 24), 1]])
    found, layout, _, embeddings = look(tiny.model, given)
    visual, caught = tiny.model.model.visual, {}
    hook = visual.blocks[-1].attn.register_forward_hook(
        lambda m, a, kw, o: caught.update(kw, x=a[0] if a else kw["hidden_states"]), with_kwargs=True
    )
    out = visual(given["pixel_values"], grid_thw=given["image_grid_thw"])
    hook.remove()
    attn, x = visual.blocks[-1].attn, caught["x"]
    q, k, _ = attn.qkv(x).reshape(len(x), 3, 2, 16).permute(1, 0, 2, 3)
    q, k = apply_rotary_pos_emb_vision(q, k, *caught["position_embeddings"])
    ends = caught["cu_seqlens"].tolist()
    got, alone = torch.zeros(len(x)), torch.zeros(len(x))
    for start, end in pairwise(ends):
        for row in range(start, end):
            for head in range(2):
                got[start:end] += (k[start:end, head] @ q[row, head] / 4).softmax(0) / 2
            alone[start:end] += (k[start:end].flatten(1) @ q[row].flatten() / 32**0.5).softmax(0)
    merged = visual.merger(out.last_hidden_state)
    at = layout.visual_BN
    order = [int((merged - row).abs().sum(1).argmin()) for row in out.pooler_output]
    assert sorted(order) == list(range(len(merged))) and order != sorted(order)
    for n, unit in enumerate(order):
        four = slice(4 * unit, 4 * unit + 4)
        assert found.attention_BN[at][n] == pytest.approx(float(got[four].mean()), abs=1e-4)
        assert found.single_BN[at][n] == pytest.approx(float(alone[four].mean()), abs=1e-4)
        assert torch.allclose(found.keys_BNV[at][n], k[four].flatten(1).mean(0), atol=1e-5)
    assert torch.equal(found.features_BNV[at], embeddings[at]) and bool((found.features_BNV[~at] == 0).all())
    assert found.cls_TV is None and found.heads == 2
    assert torch.equal(found.project(embeddings), embeddings)
    assert found.view_BN[at].tolist() == [0] * 9 + [1] * 18 + [2] * 15


def test_where_a_tower_has_one_of_the_two_layers_it_serves_for_both():
    glance = models.load("glance").model
    family = find(glance)
    tower = family.tower(glance)
    assert tower.states == (0,) and tower.made is None
    assert tower.reads is glance.model.vision_tower.encoder.layers[0].self_attn
    assert TowerTap(glance, family, BOTH).keys == {"made": "reads", "reads": "reads"}
    last = tiny_llava().model
    last.config.vision_feature_layer = -1
    tower = find(last).tower(last)
    assert tower.reads is None and tower.made is last.model.vision_tower.encoder.layers[1].self_attn
    qwen = tiny_qwen().model
    assert (
        find(qwen).tower(qwen).made is qwen.model.visual.blocks[-1].attn and find(qwen).tower(qwen).merge == 4
    )


@torch.no_grad()
def test_features_before_the_first_layer():
    """Glance: what enters layer 0 becomes the features, and layer 0 is looked at."""
    loaded = models.load("glance")
    pixels = torch.randn(2, 3, 80, 80, generator=torch.Generator().manual_seed(0))
    image = loaded.model.config.image_token_id
    given = {
        "input_ids": torch.tensor([[5, *[image] * 100, 6], [5, *[image] * 100, 7]]),
        "attention_mask": torch.ones(2, 102),
        "pixel_values": pixels,
    }
    found, layout, _, embeddings = look(loaded.model, given)
    at = layout.visual_BN
    assert torch.allclose(found.project(found.features_BNV)[at], embeddings[at], atol=1e-5)
    tower = loaded.model.model.vision_tower
    enters = tower.pre_layrnorm(tower.embeddings(pixels))
    assert torch.allclose(found.cls_TV, enters[:, 0], atol=1e-5)
    layer = tower.encoder.layers[0]
    keys = layer.self_attn.k_proj(layer.layer_norm1(enters))[:, 1:]
    assert torch.allclose(found.keys_BNV[at], keys.flatten(0, 1), atol=1e-5)


@torch.no_grad()
def test_features_of_several_layers_stand_side_by_side():
    tiny = tiny_llava()
    config = copy.deepcopy(tiny.model.config)
    config.vision_feature_layer = [0, -2]
    torch.manual_seed(0)
    model = T.LlavaForConditionalGeneration(config).eval()
    given = tiny.batch([[3, SQUARE, 2]])
    found, layout, _, embeddings = look(model, given)
    at = layout.visual_BN
    assert found.features_BNV.shape[-1] == found.cls_TV.shape[-1] == 64
    assert torch.allclose(found.project(found.features_BNV)[at], embeddings[at], atol=1e-5)
    assert find(model).tower(model).made is model.model.vision_tower.encoder.layers[0].self_attn


def prompt(tiny, given):
    family = find(tiny.model)
    return Layout.from_mask(
        family.visual_mask(tiny.model, given["input_ids"]), given["attention_mask"].bool()
    )


@pytest.mark.parametrize("name", [*LLAVAS, *OTHERS])
@torch.no_grad()
def test_features_made_earlier_bring_what_was_seen_with_them(name):
    tiny = FACTORIES[name]()
    given, family = tiny.batch(SAMPLES), find(tiny.model)
    direct = look(tiny.model, given)[0]
    tap = TowerTap(tiny.model, family, BOTH)
    keys = ("pixel_values", "image_sizes", "batch_num_images", "image_grid_thw")
    made = tiny.model.model.get_image_features(
        **{k: v for k, v in given.items() if k in keys}, return_dict=True
    )
    tap.begin()
    captured = tap.captured({"image": made})
    embeddings = torch.randn(*given["input_ids"].shape, 64)
    found = vision(captured, "made", prompt(tiny, given), embeddings)
    assert torch.equal(found.attention_BN, direct.attention_BN) and torch.equal(
        found.keys_BNV, direct.keys_BNV
    )
    # Another tap that wants no more may use them too; one that wants more may not.
    tap.remove()
    less = TowerTap(tiny.model, family, frozenset({"made"}))
    assert less.captured({"image": made}) is not None
    made = tiny.model.model.get_image_features(
        **{k: v for k, v in given.items() if k in keys}, return_dict=True
    )
    less.remove()
    if name in LLAVAS:
        with pytest.raises(ValueError, match="made without it"):
            TowerTap(tiny.model, family, BOTH).captured({"image": made})


@pytest.mark.parametrize("name", [*LLAVAS, *OTHERS])
@torch.no_grad()
def test_beams_see_what_their_sample_sees(name):
    """``generate`` makes features first and repeats them; each copy is a view of its own."""
    tiny = FACTORIES[name]()
    # One image each, of InternVL one view: older transformers mix up those of a sample when they repeat them.
    second = SQUARE if name.startswith("internvl") else WIDE
    given, family = tiny.batch([[3, SQUARE, 2], [1, second, 2]]), find(tiny.model)
    begins = tiny.visual(given).long().diff(dim=1) == 1
    given["input_ids"][:, :-1][begins] = VISION_START
    direct = look(tiny.model, given)[0]
    tap, seen, call = TowerTap(tiny.model, family, BOTH), [], {}
    parts = family.parts(tiny.model)

    def before(module: nn.Module, args: tuple, kwargs: dict) -> None:
        tap.begin()
        call.update(kwargs, ids=args[0] if args else kwargs["input_ids"])

    def merged(module: nn.Module, args: tuple, kwargs: dict) -> None:
        seen.append((tap.captured(call.get("mm_encoder_outputs"), call), call["ids"]))

    hooks = [
        parts.core.register_forward_pre_hook(before, with_kwargs=True),
        parts.decoder.register_forward_pre_hook(merged, with_kwargs=True),
    ]
    tiny.model.generate(**given, max_new_tokens=2, num_beams=2, do_sample=False)
    for hook in hooks:
        hook.remove()
    tap.remove()
    captured, ids = seen[0]
    assert all(later is None for later, _ in seen[1:]) and len(ids) == 4
    layout = Layout.from_mask(family.visual_mask(tiny.model, ids))
    found = vision(captured, "made", layout, torch.zeros(*ids.shape, 64))
    twice = direct.attention_BN.repeat_interleave(2, 0)
    assert torch.allclose(found.attention_BN, twice, atol=1e-6)
    views = [set(row[row >= 0].tolist()) for row in found.view_BN]
    assert all(not a & b for i, a in enumerate(views) for b in views[:i])
    if found.cls_TV is not None:
        for row, view in zip(found.view_BN, direct.view_BN.repeat_interleave(2, 0), strict=True):
            shown = view >= 0
            assert torch.allclose(found.cls_TV[row[shown]], direct.cls_TV[view[shown]], atol=1e-6)


@torch.no_grad()
def test_features_of_unknown_making_are_refused_with_advice():
    tiny = tiny_llava_next()
    given, family = tiny.batch([[3, SQUARE, 2]]), find(tiny.model)
    keys = {k: given[k] for k in ("pixel_values", "image_sizes")}
    made = tiny.model.model.get_image_features(**keys, return_dict=True)
    tap = TowerTap(tiny.model, family, BOTH)
    with pytest.raises(ValueError, match=r"made without it.*prefill_chunk_size unset"):
        tap.captured({"image": made})
    mine = tiny.model.model.get_image_features(**keys, return_dict=True)
    assert tap.captured({"image": mine}) is not None
    with pytest.raises(ValueError, match="cut in chunks since"):
        # As chunked prefill cuts it.
        tap.captured({"image": type(mine)(pooler_output=[mine.pooler_output[0][:4]])})
    mine.pooler_output = [rows.clone() for rows in mine.pooler_output]
    with pytest.raises(ValueError, match="made without it"):
        tap.captured({"image": mine})
    tap.remove()
    # Where nothing of the tower is wanted, the picture is told as far as it can be.
    plain = TowerTap(tiny.model, family)
    assert not plain.captured({"image": made}).picture.mapped
    assert plain.captured({"image": made}, {"image_sizes": given["image_sizes"]}).picture.mapped
    mine = tiny.model.model.get_image_features(**keys, return_dict=True)
    captured = plain.captured({"image": mine})
    assert captured.picture.mapped and captured.tower is None
    where = grid(captured.picture, prompt(tiny, given), torch.device("cpu"))
    assert where.line_BN.shape == given["input_ids"].shape
    assert grid(plain.captured({"image": made}).picture, prompt(tiny, given), torch.device("cpu")) is None
    plain.remove()


@torch.no_grad()
def test_another_feature_layer_for_one_call_is_refused():
    tiny = tiny_llava()
    tap = TowerTap(tiny.model, find(tiny.model), BOTH)
    with pytest.raises(ValueError, match="vision_feature_layer=-1 was asked for"):
        tiny.model(**tiny.batch([[3, SQUARE, 2]]), vision_feature_layer=-1)
    tiny.model(**tiny.batch([[3, SQUARE, 2]]), vision_feature_layer=-2)
    tap.remove()


@torch.no_grad()
def test_a_forward_begins_with_nothing():
    tiny = tiny_llava()
    tap = TowerTap(tiny.model, find(tiny.model), BOTH)
    tap.begin()
    tiny.model(**tiny.batch([[3, SQUARE, 2]]))
    assert tap.captured() is not None
    tap.begin()
    assert tap.captured() is None
    tiny.model(**tiny.batch([[4]]))
    assert tap.captured() is None
    with pytest.raises(ValueError, match="the images have 16 rows, but the prompt has 32"):
        given, two = tiny.batch([[3, SQUARE, 2]]), prompt(tiny, tiny.batch([[3, SQUARE, 2, SQUARE]]))
        tap.begin()
        tiny.model(**given)
        vision(tap.captured(), "made", two, torch.zeros(1, two.rows, 64))
    tap.remove()


@torch.no_grad()
def test_threads_do_not_see_each_other():
    tiny = tiny_llava()
    tap = TowerTap(tiny.model, find(tiny.model), BOTH)
    found: dict[int, tuple] = {}
    barrier = threading.Barrier(3)

    def work(number: int) -> None:
        with torch.no_grad():
            given = tiny.batch([[3, *[SQUARE] * number, 2]], seed=number)
            tap.begin()
            barrier.wait()
            tiny.model(**given)
            barrier.wait()
            captured = tap.captured()
            found[number] = (
                captured.picture.lengths,
                vision(captured, "made", prompt(tiny, given), torch.zeros(1)),
            )

    threads = [threading.Thread(target=work, args=(n,)) for n in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tap.remove()
    for number, (lengths, seen) in found.items():
        assert lengths == (16,) * number
        alone = look(tiny.model, tiny.batch([[3, *[SQUARE] * number, 2]], seed=number))[0]
        assert torch.allclose(seen.attention_BN, alone.attention_BN, atol=1e-6)
    assert len(found) == 3


def state(model: nn.Module) -> list:
    """Everything that hooks and wrappers can leave behind."""
    return [
        (
            name,
            sorted(module.__dict__),
            [len(held) for held in vars(module).values() if isinstance(held, dict)],
        )
        for name, module in model.named_modules()
    ]


@pytest.mark.parametrize("name", [*LLAVAS, "qwen2_5_vl"])
@torch.no_grad()
def test_nothing_is_left_behind(name):
    tiny = FACTORIES[name]()
    given = tiny.batch(SAMPLES)
    logits = tiny.model(**given).logits
    before = state(tiny.model)
    tap = TowerTap(tiny.model, find(tiny.model), BOTH)
    assert torch.equal(tiny.model(**given).logits, logits)
    assert state(tiny.model) != before
    tap.remove()
    tap.remove()
    assert state(tiny.model) == before


@torch.no_grad()
def test_pictures_of_other_sizes():
    """The tower's position embeddings are interpolated, as the tower itself does when it is asked."""
    tiny = tiny_llava()
    given = tiny.batch([[3, SQUARE, 2]])
    logits, before = tiny.model(**given).logits, state(tiny.model)
    pixels = torch.randn(1, 3, 16, 24)
    ids = torch.tensor([[8, *[3] * 6, 9]])
    with pytest.raises(ValueError, match="doesn't match model"):
        tiny.model(input_ids=ids, pixel_values=pixels)
    undo = allow_other_sizes(tiny.model, find(tiny.model))
    features = tiny.model.model.get_image_features(pixels).pooler_output[0]
    tower = tiny.model.model.vision_tower
    states = tower(pixels, interpolate_pos_encoding=True, output_hidden_states=True).hidden_states[-2]
    assert torch.allclose(features, tiny.model.model.multi_modal_projector(states[:, 1:])[0], atol=1e-6)
    assert torch.equal(tiny.model(**given).logits, logits)
    undo()
    assert torch.equal(tiny.model(**given).logits, logits) and state(tiny.model) == before
    qwen = tiny_qwen().model
    before = state(qwen)
    allow_other_sizes(qwen, find(qwen))()
    assert state(qwen) == before


def test_gradients_flow_through_features_but_not_through_scores():
    tiny = tiny_llava()
    given = tiny.batch([[3, SQUARE, 2]])
    found = look(tiny.model, given)[0]
    assert found.features_BNV.requires_grad and found.cls_TV.requires_grad
    assert not found.attention_BN.requires_grad and not found.keys_BNV.requires_grad


# The stock LLaVA-NeXT lays tiles out without CLS alone.
@pytest.mark.parametrize(
    ("factory", "configured"), [(tiny_llava, "default"), (tiny_llava, "full"), (tiny_llava_next, "full")]
)
@torch.no_grad()
def test_a_strategy_given_as_an_argument_is_that_of_the_configuration(factory, configured):
    """Whether CLS is a row: tokens that merge in the tower, and all that take rows for patches, follow it."""
    asked = {"default": "full", "full": "default"}[configured]
    want, tiny = factory(), factory()
    want.model.config.vision_feature_select_strategy = asked
    tiny.model.config.vision_feature_select_strategy = configured
    given = want.batch([[3, SQUARE, 2], [1, WIDE, 1, TALL, 2]])
    for spec in ("tome(r=2)", "tome(r=1)+fastv(layer=2,keep=0.5)", "fastervlm(keep=0.5)", "pool(factor=2)",
                 "visionzip(dominant=4,contextual=2)", "prumerge", "vskip(layers=1)"):  # fmt: skip
        with apply(want.model, spec):
            expected = want.model(**given).logits
        with apply(tiny.model, spec):
            got = tiny.model(**given, vision_feature_select_strategy=asked).logits
        assert torch.equal(got, expected), spec
