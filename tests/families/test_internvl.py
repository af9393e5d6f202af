"""InternVL: which patches its rows join, and which views are one image, against accounts by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers as T

import saccade
from families.test_pictures import features, ramp
from matrix.cases import TOLERANCE
from saccade import models, skip_vision
from saccade.core.layout import Layout
from saccade.engine.tower import TowerTap
from saccade.families import FAMILIES, find
from saccade.families.vision import Picture
from saccade.inputs.samples import Sample
from saccade.report.explain import explain
from saccade.report.explain.reading import views as views_of
from support import processors
from support.looking import look
from support.models import BIG, IMAGE, SQUARE, TALL, WIDE, tiny_internvl
from support.models_views import internvl_views
from support.pictures import picture, samples
from support.reference import gap, recompute

SAMPLES = [[3, SQUARE, 2], [4], [1, WIDE, 1, TALL, 1], [2, BIG, 1, SQUARE]]


def four(row: int) -> list[int]:
    """The patches of its view that a row joins: the square two lines down for each line, by hand."""
    line, column = divmod(row, 3)
    return [6 * (2 * line + i) + 2 * column + j for i in (0, 1) for j in (0, 1)]


@torch.no_grad()
def test_every_row_has_the_content_of_its_four_patches():
    tiny = tiny_internvl()
    given, core = tiny.batch(SAMPLES), tiny.model.model
    shown = find(tiny.model).picture(tiny.model, given)
    made = tiny.model.get_image_features(given["pixel_values"]).pooler_output
    assert shown.lengths == (9,) * len(made) and shown.patches == 9 * len(made)
    states = core.vision_tower(given["pixel_values"]).last_hidden_state[:, 1:]
    for view, rows in enumerate(made):
        for n, row in enumerate(rows):
            at = 9 * view + n
            joined = torch.cat([states[view, patch] for patch in four(n)])
            assert torch.allclose(row, core.multi_modal_projector(joined), atol=1e-5)
            assert int(shown.patch_R[at]) == at and int(shown.view_R[at]) == view
            assert (int(shown.line_R[at]), int(shown.column_R[at])) == divmod(n, 3)
            box = [n % 3 / 3, n // 3 / 3, (n % 3 + 1) / 3, (n // 3 + 1) / 3]
            assert shown.box_R4[at].tolist() == pytest.approx(box)


@pytest.mark.parametrize("padding", ["left", "right"])
def test_runs_of_placeholders_are_images_whose_last_view_is_the_thumbnail(padding):
    tiny = tiny_internvl()
    given, family = tiny.batch(SAMPLES, padding), find(tiny_internvl().model)
    shown = family.grouped(tiny.model, family.picture(tiny.model, given), given)
    counts = [internvl_views(size) for size in (SQUARE, WIDE, TALL, BIG, SQUARE)]
    assert counts == [1, 3, 3, 5, 1]
    assert shown.views == tuple(counts) and shown.lengths == tuple(9 * n for n in counts)
    planes = [[0], [1, 2, 0], [1, 2, 0], [1, 2, 3, 4, 0], [0]]
    assert shown.plane_R.tolist() == [plane for image in planes for plane in image for _ in range(9)]
    assert shown.view_R.tolist() == [view for view in range(13) for _ in range(9)]
    embeds = {"inputs_embeds": tiny.model.get_input_embeddings()(given["input_ids"])}
    again = family.grouped(tiny.model, family.picture(tiny.model, given), embeds)
    assert again.lengths == shown.lengths and torch.equal(again.plane_R, shown.plane_R)


def test_where_the_prompt_does_not_tell_views_stay_images():
    tiny = tiny_internvl()
    family, given = find(tiny.model), tiny.batch([[2, WIDE, 1]])
    shown = family.picture(tiny.model, given)
    assert family.grouped(tiny.model, shown, {}) is shown
    wrong = given["input_ids"].masked_fill(torch.arange(30) == 5, 9)
    assert family.grouped(tiny.model, shown, {"input_ids": wrong}) is shown
    unknown = family.grouped(tiny.model, Picture.unmapped((9, 9, 9)), given)
    assert unknown.lengths == (27,) and not unknown.mapped
    made = {"mm_encoder_outputs": {"image": features(9, 9, 9)}}
    assert family.picture(tiny.model, made).lengths == (9, 9, 9)
    assert not family.picture(tiny.model, {"mm_encoder_outputs": {"image": features(9, 4)}}).mapped
    assert family.picture(tiny.model, {}) is None


@torch.no_grad()
def test_a_budget_is_of_all_views_of_an_image_together():
    tiny = tiny_internvl()
    given = tiny.batch([[2, BIG, 1, SQUARE, 2], [1, WIDE, 3]])
    runs = Layout.from_mask(tiny.visual(given)).image_BN
    zipped = "visionzip(dominant=5,contextual=2,share=image)"
    for plan in ("random(keep=7)", "fastervlm(keep=7,share=image)", zipped, "uniform(keep=7)"):
        with saccade.apply(tiny.model, plan) as handle, handle.tracing() as traces:
            tiny.model(**given)
        kept = [runs[b, rows].bincount().tolist() for b, rows in enumerate(traces[0].kept(3))]
        assert kept == [[7, 7], [7]], plan


@torch.no_grad()
def test_the_tower_ranks_rows_by_what_cls_gives_their_patches():
    tiny = tiny_internvl("qwen3")
    given = tiny.batch(SAMPLES)
    found, layout, captured, inputs_BND = look(tiny.model, given)
    assert captured.keys == {"made": "made", "reads": "made"}
    tower = tiny.model.model.vision_tower
    tower.set_attn_implementation("eager")
    out = tower(given["pixel_values"], output_attentions=True, output_hidden_states=True)
    tower.set_attn_implementation("sdpa")
    layer = tower.encoder.layer[-1]
    keys = layer.attention.k_norm(layer.attention.k_proj(layer.layernorm_before(out.hidden_states[-2])))
    at, number = layout.visual_BN, 0
    for view in range(len(given["pixel_values"])):
        for row in range(9):
            cls = out.attentions[-1][view, :, 0].mean(0)
            assert found.attention_BN[at][number] == pytest.approx(
                float(sum(cls[1 + patch] for patch in four(row)) / 4), abs=1e-6
            )
            mean = sum(keys[view, 1 + patch] for patch in four(row)) / 4
            assert torch.allclose(found.keys_BNV[at][number], mean, atol=1e-5)
            number += 1
    assert number == int(at.sum()) and found.heads == 2 and found.cls_TV is None
    assert torch.equal(found.features_BNV[at], inputs_BND[at])


@torch.no_grad()
def test_copies_of_features_in_one_tensor_are_told_by_what_they_hold():
    """As ``generate`` repeats them for beams: several images of several views, sample by sample."""
    tiny = tiny_internvl()
    given = tiny.batch([[2, WIDE, 1, SQUARE, 2], [1, BIG, 3]])
    tap = TowerTap(tiny.model, find(tiny.model), frozenset({"made"}))
    made = tiny.model.get_image_features(given["pixel_values"], return_dict=True)
    once = tap.captured({"image": made}, given)
    assert once.views == tuple(range(9))
    first, second = made.pooler_output[:4], made.pooler_output[4:]
    made.pooler_output = torch.cat((first, first, second, second))
    ids = given["input_ids"].repeat_interleave(2, 0)
    twice = tap.captured({"image": made}, {"input_ids": ids})
    assert twice.picture.lengths == (27, 9, 27, 9, 45, 45) and twice.picture.views == (3, 1, 3, 1, 5, 5)
    assert twice.views == (0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6, 7, 8, 4, 5, 6, 7, 8)
    assert twice.picture.view_R.tolist() == [view for view in range(18) for _ in range(9)]
    assert twice.picture.patch_R[36:72].tolist() == twice.picture.patch_R[:36].tolist()
    made.pooler_output = made.pooler_output + 1
    with pytest.raises(ValueError, match="made without it"):
        tap.captured({"image": made}, {"input_ids": ids})
    tap.remove()


def test_other_towers_are_not_taken_apart():
    tiny = tiny_internvl()
    family = find(tiny.model)
    with pytest.raises(ValueError, match="let every patch be put back behind it"):
        saccade.apply(tiny.model, "tome(r=2)")
    tiny.model.config.downsample_ratio = 0.25
    assert family.tower(tiny.model) is None
    with pytest.raises(ValueError, match="cannot be looked into"):
        saccade.apply(tiny.model, "fastervlm(keep=0.5)")


@pytest.mark.parametrize("plan", ["shortv(layers=1)+vtw(layer=3)"])
@torch.no_grad()
def test_a_llama_decoder(plan):
    tiny = tiny_internvl("llama")
    given = tiny.batch(SAMPLES)
    with saccade.apply(tiny.model, plan):
        ours = tiny.model(**given).logits
    theirs = recompute(tiny.model, [("shortv", (1,)), ("vtw", (3,))], given).logits
    assert gap(ours, theirs, given["attention_mask"]) < TOLERANCE


def test_bounds_are_not_of_decoders_with_norms_on_heads():
    plain, normed = tiny_internvl("qwen2").model, tiny_internvl("qwen3").model
    family = find(plain)
    assert set(family.linears(family.parts(plain).layers[0])) >= {"query", "down"}
    with pytest.raises(ValueError, match="norms queries and keys head by head"):
        family.linears(family.parts(normed).layers[0])


def test_sizes_of_views_are_in_the_fingerprint():
    first = T.InternVLConfig()
    second = T.InternVLConfig(vision_config=T.InternVLVisionConfig(image_size=224))
    family = FAMILIES["internvl"]
    assert family.fingerprint(first) != family.fingerprint(second)
    assert family.fingerprint(first)["vision"]["image_size"] == [448, 448]
    assert family.typical_visual(first) == 13 * 256


@pytest.mark.parametrize("size", [(240, 240), (300, 410), (500, 220), (330, 900), (24, 24), (20, 21)])
@torch.no_grad()
def test_boxes_show_what_the_patches_show(size):
    """Through the real image processor: the colours of a row's patches say where in the picture it is."""
    tiny, image = tiny_internvl(), ramp(*size)
    images = T.GotOcr2ImageProcessorPil(size={"height": 24, "width": 24}, max_patches=6)
    plain = {"do_rescale": False, "do_normalize": False, "return_tensors": "pt", "crop_to_patches": True}
    given = images(image, **plain)
    views = int(given["num_patches"][0])
    cells = given["pixel_values"].unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5).flatten(4)
    told = cells.flatten(0, 2).float().mean(-1)
    family, ids = find(tiny.model), torch.tensor([[8, *[IMAGE] * 9 * views, 9]])
    shown = family.grouped(tiny.model, family.picture(tiny.model, given), {"input_ids": ids})
    assert shown.lengths == (9 * views,)
    parts = family.crops(SimpleNamespace(image_processor=images), image) or [(0.0, 0.0, 1.0, 1.0)]
    assert len(parts) == len(set(shown.plane_R.tolist())) == views
    seen = np.asarray(image).astype(float)
    for row in range(9 * views):
        x, y, end, low = parts[int(shown.plane_R[row])]
        left, top, right, bottom = shown.box_R4[row].tolist()
        left, right = x + left * (end - x), x + right * (end - x)
        top, bottom = y + top * (low - y), y + bottom * (low - y)
        down, across = (np.arange(n) / n for n in seen.shape[:2])
        area = seen[np.ix_((down >= top) & (down < bottom), (across >= left) & (across < right))]
        assert abs(area[..., 0].mean() - told[row][0]) < 14 and abs(area[..., 1].mean() - told[row][1]) < 14


SIZES = [(48, 48), (400, 400), (640, 480), (480, 640), (100, 31), (20, 20), (900, 100)]


@pytest.mark.parametrize("most", [1, 6, 12, 40])
@pytest.mark.parametrize("scale", [0.95, 0.7, 0.5, 0.2])
def test_a_lower_resolution_has_fewer_tiles_and_one_view_at_least(most, scale):
    loaded = processors.internvl(most)
    count = loaded.processor.image_processor.get_number_of_image_patches
    for size in SIZES:
        image = picture(*size)
        full = count(size[1], size[0], {"crop_to_patches": True})
        (small,), more = models.shrink(loaded, [image], scale)
        less = count(small.height, small.width, {"crop_to_patches": True})
        budget = max(int((full - (full > 1)) * scale**2), 1)
        best = count(size[1], size[0], {"crop_to_patches": True, "max_patches": budget})
        assert more == {} and less == best <= budget + 1


@torch.no_grad()
def test_from_pictures_to_answers():
    loaded = processors.internvl()
    asked = samples(("w1 w2", "w3", "w4 w5"))
    batch = models.inputs(loaded, asked)
    assert (batch["input_ids"] == IMAGE).sum(1).tolist() == [9 * 7 + 9 * 5, 0, 9 * 3]
    with saccade.apply(loaded.model, "fastv(layer=1,keep=9)") as handle, handle.tracing() as traces:
        said = loaded.model.generate(**batch, max_new_tokens=3, do_sample=False)
    assert [len(rows) for rows in traces[0].kept(2)] == [18, 0, 9]
    assert len(models.answers(loaded, said, batch["input_ids"].shape[1])) == 3
    half = models.inputs(loaded, asked, "resize(scale=0.5)")
    assert (half["input_ids"] == IMAGE).sum(1).tolist() == [9 + 9, 0, 9]


@pytest.mark.parametrize("plan", ["fastervlm(keep=0.4)", "resize(scale=0.6)+fastervlm(keep=0.4)"])
def test_an_explanation_draws_tiles_side_by_side(plan):
    loaded = processors.internvl()
    told = explain(loaded, [picture(200, 100), picture(24, 24)], "w1", plan, max_new_tokens=2)
    tiled, whole = told.views
    assert set(whole.planes.values()) == {0}
    shrunk = plan.startswith("resize")
    assert len(tiled.boxes) == (9 if shrunk else 27)
    assert set(tiled.planes.values()) == ({0} if shrunk else {0, 1})
    for plane in set(tiled.planes.values()):
        boxes = [tiled.boxes[row] for row in tiled.patches if tiled.planes[row] == plane]
        assert len(set(boxes)) == len(boxes)
        areas = [(right - left) * (low - top) for left, top, right, low in boxes]
        assert sum(areas) == pytest.approx(1, abs=1e-3)
    assert told.full == 36


@torch.no_grad()
def test_crops_of_another_picture_are_refused():
    loaded = processors.internvl()
    batch = models.inputs(loaded, [Sample("a", "t", "s", (picture(200, 100),), "w1")])
    with saccade.apply(loaded.model, "fastv(layer=1,keep=0.5)") as handle, handle.tracing() as traces:
        loaded.model(**batch)
    with pytest.raises(ValueError, match="planes"):
        views_of(traces[0], [picture(200, 100)], [[(0.0, 0.0, 1.0, 1.0)]])


def test_rows_laid_out_anew_are_refused():
    with pytest.raises(ValueError, match=r"InternVL cannot take other rows.*split=grid"):
        skip_vision.wrap(processors.internvl(), skip_vision.SkipVisionConfig(layout="cos"))
