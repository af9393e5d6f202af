"""Molmo 2: who sees whom, rows pooled of patches of crops that overlap, decoders that norm otherwise."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

import saccade
from families.test_gemma import shown, stock_masks
from matrix.cases import TOLERANCE
from saccade.engine.sights import sights_of
from saccade.families import find
from support.looking import look
from support.models import BIG, IMAGE, SQUARE, TALL, VISION_END, VISION_START, WIDE, tiny_molmo2
from support.reference import gap, recompute

PLAN, RECIPE = "vskip(layers=1)+vtw(layer=2)", [("vskip", (1,)), ("vtw", (2, 3))]
SAMPLES = [[3, SQUARE, 2], [1, WIDE, 2, BIG, 1]]


@pytest.mark.parametrize("padding", ["left", "right"])
@torch.no_grad()
def test_what_rows_see_is_what_the_stock_masks_show(padding):
    """Pictures that touch, several in a prompt, text alone; marks among rows count as rows."""
    tiny = tiny_molmo2(attn="eager")
    given = tiny.batch([[2, SQUARE, TALL, 3], [4], [1, SQUARE, 5, SQUARE, 2]], padding, seed=1)
    theirs, mask = stock_masks(tiny, given), given["attention_mask"].bool()
    family, rows = find(tiny.model), mask.shape[1]
    (sight,) = set(sights_of(family, family.rules(tiny.model.config), given, 0, rows, mask))
    for number, one in theirs.items():
        ours = shown(sight, rows) & mask[:, None, :]
        assert torch.equal(ours[mask], (one & mask[:, None, :])[mask]), number
    kinds = given["mm_token_type_ids"].bool()
    assert bool((kinds & (given["input_ids"] != IMAGE)).any())
    assert bool(shown(sight, rows)[2, kinds[2].nonzero()[0, 0], kinds[2].nonzero()[-1, 0]])


@torch.no_grad()
def test_it_is_causal_where_it_is_not_told_which_rows_are_a_picture():
    tiny = tiny_molmo2()
    (given,) = tiny.singles([[3, SQUARE, 5]], seed=1)
    told = tiny.model(**given).logits
    del given["mm_token_type_ids"]
    with saccade.apply(tiny.model, PLAN):
        ours = tiny.model(**given).logits
    assert gap(ours, recompute(tiny.model, RECIPE, given).logits) < TOLERANCE
    assert gap(tiny.model(**given).logits, told) > 1e-2


@pytest.mark.parametrize("text", [{"qk_norm_type": "olmo"}, {"qk_norm_type": "olmo", "norm_after": True}])
@torch.no_grad()
def test_decoders_that_norm_whole_projections_and_what_is_added(text):
    """As the checkpoint on an OLMo decoder: a row that skips gets 0, and the norm after it leaves that 0."""
    tiny = tiny_molmo2(text=text)
    given = tiny.batch([[3, SQUARE, 5], [4], [2, TALL, 6]], seed=2)
    more = {"ffn_skip(layers=0)+shortv(layers=2)": [("ffn_skip", (0,)), ("shortv", (2,))]}
    for plan, recipe in ({PLAN: RECIPE} | more).items():
        with saccade.apply(tiny.model, plan):
            ours = tiny.model(**given).logits
        assert gap(ours, recompute(tiny.model, recipe, given).logits, given["attention_mask"]) < TOLERANCE
    layer, hidden = find(tiny.model).parts(tiny.model).layers[1], torch.randn(1, 2, 64)
    same = torch.equal(find(tiny.model).input_norm(layer, hidden), hidden)
    assert same == bool(text.get("norm_after"))


@torch.no_grad()
def test_every_row_is_pooled_of_the_patches_that_the_picture_and_the_tower_name():
    tiny = tiny_molmo2()
    given, family, core = tiny.batch(SAMPLES, seed=3), find(tiny.model), tiny.model.model
    picture, tower = family.picture(tiny.model, given), family.tower(tiny.model)
    packed = core.get_image_features(
        *(given[key] for key in ("pixel_values", "image_token_pooling", "image_grids"))
    ).pooler_output
    assert picture.lengths == tuple(map(len, packed)) == (18, 21, 25)
    # The whole; one crop, two, and four.
    assert picture.views == (2, 3, 5)
    order = family.tower_order(tower, given)
    states = core.vision_tower(given["pixel_values"], output_hidden_states=True).hidden_states
    features = torch.cat([states[2], states[1]], -1).flatten(0, 1)
    for row, wanted in enumerate(torch.cat(packed)):
        own = order[row][order[row] >= 0]
        assert int(picture.view_R[row]) == int(own[0]) // 25
        alone = core.multi_modal_projector(features[None], own[None]).last_hidden_state[0]
        assert gap(alone, wanted) < 1e-5
    assert picture.plane_R.tolist() == [0] * 9 + [1] * 9 + [0] * 9 + [1] * 12 + [0] * 9 + [1] * 16
    # Eight patches across make four rows, five make three, of which the last has one.
    assert picture.column_R[27:39].tolist() == [0, 1, 2, 3] * 3
    assert torch.allclose(picture.box_R4[8], torch.tensor([0.8, 0.8, 1.0, 1.0]))
    assert torch.allclose(picture.box_R4[28], torch.tensor([0.25, 0.0, 0.5, 0.4]))


@torch.no_grad()
def test_the_tower_tells_of_a_row_the_mean_of_the_patches_that_it_has():
    """Of the later of the two layers that features are of; the tower has one more."""
    tiny = tiny_molmo2()
    given = tiny.batch(SAMPLES, seed=4)
    found, layout, _, embeddings = look(tiny.model, given)
    vision, seen = tiny.model.model.vision_tower, []
    hook = vision.layers[1].self_attn.register_forward_hook(
        lambda m, args, kwargs, out: seen.append(kwargs["hidden_states"]), with_kwargs=True
    )
    vision(given["pixel_values"])
    hook.remove()
    attn = vision.layers[1].self_attn
    q, k = (part(seen[0]).unflatten(-1, (2, 16)).transpose(1, 2) for part in (attn.q_proj, attn.k_proj))
    received = (q @ k.transpose(2, 3) / 4).softmax(-1).mean(1).sum(1).flatten()
    wanted = [received[pool[pool >= 0]].mean() for pool in given["image_token_pooling"]]
    at = layout.visual_BN
    torch.testing.assert_close(found.attention_BN[at], torch.stack(wanted))
    assert torch.equal(found.features_BNV[at], embeddings[at])


def film(tiny: Any, frames: int = 3) -> dict[str, Any]:
    """A film of frames of 5 x 5 patches, pooled three by three, text between its frames."""
    draw = torch.Generator().manual_seed(5)
    ids = [9, 10]
    for number in range(frames):
        ids += [30 + number, VISION_START, *[IMAGE] * 4, VISION_END]
    ids = torch.tensor([[*ids, 11, 12]])
    table = torch.nn.functional.pad(torch.arange(25).view(5, 5), (0, 1, 0, 1), value=-1)
    own = torch.stack([table[y : y + 3, x : x + 3].flatten() for y in (0, 3) for x in (0, 3)])
    pools = torch.cat([torch.where(own < 0, own, own + 25 * number) for number in range(frames)])
    kinds = (ids == VISION_START) | (ids == IMAGE) | (ids == VISION_END)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": kinds.int(),
        "pixel_values_videos": torch.randn(frames, 25, 48, generator=draw),
        "video_token_pooling": pools,
        "video_grids": torch.tensor([[frames, 2, 2]]),
    }


@torch.no_grad()
def test_frames_of_a_film_are_planes_and_views_and_see_each_other():
    tiny = tiny_molmo2()
    given = film(tiny)
    picture = find(tiny.model).picture(tiny.model, given)
    assert picture.lengths == (12,) and picture.views == (3,)
    assert picture.plane_R.tolist() == picture.view_R.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    with saccade.apply(tiny.model, PLAN):
        ours = tiny.model(**given).logits
    assert gap(ours, recompute(tiny.model, RECIPE, given).logits) < TOLERANCE
    with saccade.apply(tiny.model, "fastervlm(keep=0.5)") as handle, handle.tracing() as traces:
        tiny.model(**given)
    assert len(traces[0].kept(3)[0]) == 6


def test_features_of_other_rows_than_the_grids_say_have_no_map():
    tiny = tiny_molmo2()
    given = tiny.batch(SAMPLES[:1])
    made = SimpleNamespace(pooler_output=[torch.zeros(7, 64)])
    told = {key: given[key] for key in ("image_grids", "image_token_pooling")}
    shown = find(tiny.model).picture(tiny.model, told | {"mm_encoder_outputs": {"image": made}})
    assert shown.lengths == (7,) and not shown.mapped


def test_a_smaller_picture_is_one_of_fewer_crops():
    """By the numbers of the published processor: crops of 27 patches that share eight with the next."""
    settings = SimpleNamespace(max_crops=8, overlap_margins=[4, 4], size={"height": 378}, patch_size=14)
    processor = SimpleNamespace(image_processor=settings)
    family = find(tiny_molmo2().model)
    picture = Image.new("RGB", (1024, 768))
    (same,), _ = family.smaller(processor, [picture], 1.0)
    assert same is picture
    (small,), more = family.smaller(processor, [picture], 0.6)
    # Two of six crops, side by side.
    assert small.size == ((2 * 19 + 8) * 14, 378) and more == {}
    (least,), _ = family.smaller(processor, [picture], 0.1)
    assert least.size == (378, 378)


def test_what_the_tower_cannot_do_is_refused_in_one_line():
    tiny = tiny_molmo2()
    for plan in ("tome(r=2,unmerge=true)", "pixelprune()"):
        with pytest.raises(ValueError, match="Molmo 2") as told:
            saccade.apply(tiny.model, plan)
        assert "\n" not in str(told.value)
