"""LLaVA-OneVision: which patches its rows lie between, against accounts without the family's code."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import transformers as T

import saccade
from families.test_pictures import ODD, account, ramp
from saccade import models, skip_vision
from saccade.families import find
from saccade.families.vision import Picture, of_grids
from saccade.inputs.samples import Sample
from saccade.report.explain import explain
from support import processors
from support.looking import look
from support.models import BIG, IMAGE, SQUARE, TALL, VIDEO, WIDE, tiny_llava_onevision
from support.pictures import picture, samples
from support.reference import gap, recompute

SAMPLES = [[3, SQUARE, 2], [4], [1, WIDE, 1, TALL, 1], [2, BIG, 1]]
"""Alone in its sample an image has tiles, which of BIG are interpolated; beside another it has one view."""

Mix = dict[int, float]
"""Patches of one image, with their shares."""


def between(place: int, size: int, into: int) -> Mix:
    """Bilinear interpolation of a line, by hand: pixel centres half a pixel in."""
    at = max((place + 0.5) * size / into - 0.5, 0.0)
    low = min(math.floor(at), size - 1)
    mix = {low: 1 - (at - low)}
    if low + 1 < size:
        mix[low + 1] = at - low
    return {n: share for n, share in mix.items() if share > 0} if at > low else {low: 1.0}


Row = tuple[int, int, int, Mix] | None
"""Plane, line, column and patches; None of a newline row."""


def rows_of(size: tuple[int, int], alone: bool = True, views: int = 2) -> list[Row]:
    """Rows of an image."""
    told = account(size)["rows"]
    base = [(0, line, column, {patch: 1.0}) for _, line, column, patch in told[:9]]
    if not alone:
        return [*base, None]
    tiles = {(line, column): patch for _, line, column, patch in (row for row in told[9:] if row)}
    lines, columns = (max(at[n] for at in tiles) + 1 for n in (0, 1))
    over = math.sqrt(lines * columns / (views * 9))
    high, wide = (lines, columns) if over <= 1.1 else (int(lines // over), int(columns // over))
    rows: list[Row] = list(base)
    for i in range(high):
        for j in range(wide):
            mix = {
                tiles[a, b]: p * q
                for a, p in between(i, lines, high).items()
                for b, q in between(j, columns, wide).items()
            }
            rows.append((1, i, j, mix))
        rows.append(None)
    return rows


def mixes(shown: Picture) -> list[Mix]:
    """Patches and shares of every row."""
    if shown.mix_RM is None or shown.share_RM is None:
        return [{} if patch < 0 else {patch: 1.0} for patch in shown.patch_R.tolist()]
    found = []
    for patches, shares in zip(shown.mix_RM.tolist(), shown.share_RM.tolist(), strict=True):
        mix: Mix = {}
        for patch, share in zip(patches, shares, strict=True):
            if patch >= 0 and share > 0:
                mix[patch] = mix.get(patch, 0.0) + share
        found.append(mix)
    return found


def patches_of(model, pixels: torch.Tensor) -> torch.Tensor:
    """Embeddings of the patches of views, before the model packs them."""
    core = model.model
    return core.multi_modal_projector(
        core.vision_tower(pixels, output_hidden_states=True).hidden_states[-1]
    ).flatten(0, 1)


def views_of(given: dict[str, torch.Tensor]) -> torch.Tensor:
    """The views of a batch, one after another."""
    alone = [n == 1 for n in given["batch_num_images"].tolist() for _ in range(n)]
    sizes = [tuple(size) for size in given["image_sizes"].tolist()]
    counts = [account(size)["tiles"] + 1 if one else 1 for size, one in zip(sizes, alone, strict=True)]
    return torch.cat([image[:n] for image, n in zip(given["pixel_values"], counts, strict=True)])


def vision_part(given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: given[key] for key in ("pixel_values", "image_sizes", "batch_num_images") if key in given}


@torch.no_grad()
def test_every_row_has_the_content_of_its_patches():
    tiny = tiny_llava_onevision()
    given = tiny.batch(SAMPLES)
    shown = find(tiny.model).picture(tiny.model, given)
    packed = torch.cat(tiny.model.get_image_features(**vision_part(given)).pooler_output)
    assert shown.lengths == (24, 10, 10, 29) and shown.views == (3, 1, 1, 5)
    patches, newline = patches_of(tiny.model, views_of(given)), tiny.model.model.image_newline
    assert shown.patches == len(patches)
    for row, mix in zip(packed, mixes(shown), strict=True):
        made = sum((share * patches[patch] for patch, share in mix.items()), torch.zeros(64))
        assert torch.allclose(row, made if mix else newline, atol=1e-5)


@pytest.mark.parametrize("views", [1, 2, 3])
@torch.no_grad()
def test_rows_are_as_counted_by_hand(views):
    tiny = tiny_llava_onevision()
    tiny.model.config.vision_aspect_ratio = f"anyres_max_{views}"
    sizes, counts = [*ODD, (48, 48), (24, 30), (90, 20)], [1, 1, 2, 1, 3, 1]
    alone = [n == 1 for n in counts for _ in range(n)]
    tiles = [account(size)["tiles"] + 1 for size in sizes]
    given = {
        "pixel_values": torch.randn(9, max(tiles), 3, 24, 24),
        "image_sizes": torch.tensor(sizes),
        "batch_num_images": torch.tensor(counts),
    }
    shown = find(tiny.model).picture(tiny.model, given)
    told = [rows_of(size, one, views) for size, one in zip(sizes, alone, strict=True)]
    assert shown.lengths == tuple(map(len, told))
    assert shown.lengths == tuple(map(len, tiny.model.get_image_features(**given).pooler_output))
    assert any(len(rows) != len(account(size)["rows"]) for rows, size in zip(told, sizes, strict=True))
    at = first = view = 0
    found = mixes(shown)
    for rows, one, count in zip(told, alone, tiles, strict=True):
        for row in rows:
            places = tuple(int(x[at]) for x in (shown.plane_R, shown.line_R, shown.column_R))
            if row is None:
                assert places == (-1, -1, -1) and not found[at] and int(shown.view_R[at]) == -1
                assert bool((shown.box_R4[at] == 0).all())
            else:
                assert places == row[:3]
                mix = {first + patch: share for patch, share in row[3].items()}
                assert found[at].keys() == mix.keys()
                assert all(found[at][patch] == pytest.approx(mix[patch], abs=1e-5) for patch in mix)
                most = max(mix.values())
                assert mix[int(shown.patch_R[at])] == pytest.approx(most, abs=1e-5)
                assert int(shown.view_R[at]) == int(shown.patch_R[at]) // 9 >= view
            at += 1
        first, view = first + 9 * (count if one else 1), view + (count if one else 1)
    assert at == len(shown.patch_R)


@pytest.mark.parametrize(
    "sizes", [[(240, 240)], [(300, 410)], [(500, 220)], [(330, 900)], [(330, 900), (90, 70)]]
)
def test_boxes_show_what_the_patches_show(sizes):
    """Through the real image processor: the colours of a row's patches say where in the picture it is."""
    tiny, images = tiny_llava_onevision(), [ramp(*size) for size in sizes]
    processor = processors.onevision().processor.image_processor
    plain = {"do_rescale": False, "do_normalize": False, "return_tensors": "pt"}
    given = processor(images=[images], **plain)
    cells = given["pixel_values"].unfold(3, 8, 8).unfold(4, 8, 8).permute(0, 1, 3, 4, 2, 5, 6).flatten(5)
    shown = find(tiny.model).picture(tiny.model, given)
    used = [cell[:n].flatten(0, 2) for cell, n in zip(cells, shown.views, strict=True)]
    told, found, at, compared = torch.cat(used).float().mean(-1), mixes(shown), 0, 0
    for image, rows in zip(images, shown.lengths, strict=True):
        seen = np.asarray(image).astype(float)
        for row in range(at, at + rows):
            left, top, right, bottom = shown.box_R4[row].tolist()
            y, x = (np.arange(n) / n for n in seen.shape[:2])
            area = seen[np.ix_((y >= top) & (y < bottom), (x >= left) & (x < right))]
            own = shown.plane_R[at : at + rows] == shown.plane_R[row]
            box = shown.box_R4[at : at + rows][own]
            full = [float((box[:, n + 2] - box[:, n]).max()) for n in (0, 1)]
            # Those that reach into the padding of a tile or a square are not of the picture's colours.
            if area.size and right - left > 0.95 * full[0] and bottom - top > 0.95 * full[1] and found[row]:
                colour = sum(share * told[patch] for patch, share in found[row].items())
                assert abs(area[..., 0].mean() - colour[0]) < 16 and abs(area[..., 1].mean() - colour[1]) < 16
                compared += 1
        at += rows
    assert compared > len(found) / 4


@torch.no_grad()
def test_what_the_tower_knows_of_a_row_is_mixed_as_the_row_is():
    tiny = tiny_llava_onevision()
    given = tiny.batch(SAMPLES)
    found, layout, captured, inputs_BND = look(tiny.model, given, wanted=frozenset({"made"}))
    tower, pixels = tiny.model.model.vision_tower, views_of(given)
    tower.set_attn_implementation("eager")
    out = tower(pixels, output_attentions=True, output_hidden_states=True)
    tower.set_attn_implementation("sdpa")
    layer = tower.encoder.layers[-1]
    keys = layer.self_attn.k_proj(layer.layer_norm1(out.hidden_states[-2])).flatten(0, 1)
    received = out.attentions[-1].mean(1).sum(1).flatten()
    states = out.hidden_states[-1].flatten(0, 1)
    at = layout.visual_BN
    for ours, theirs in (
        (found.attention_BN, received),
        (found.keys_BNV, keys),
        (found.features_BNV, states),
    ):
        for row, mix in zip(ours[at], mixes(captured.picture), strict=True):
            made = sum((share * theirs[patch] for patch, share in mix.items()), torch.zeros_like(theirs[0]))
            assert torch.allclose(row, made, atol=1e-5)
    assert found.cls_TV is None and found.heads == 2
    whole = torch.tensor([len(mix) == 1 for mix in mixes(captured.picture)])
    embeddings, projected = inputs_BND[at], found.project(found.features_BNV)[at]
    assert int(whole.sum()) > 45 and torch.allclose(projected[whole], embeddings[whole], atol=1e-5)


def filmed(frames: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """A video, then an image, in one prompt; another sample with an image alone."""
    draw = torch.Generator().manual_seed(seed)
    rows = 4 * frames + 1
    ids = [[8, *[VIDEO] * rows, 9, *[IMAGE] * 24, 10], [11, *[IMAGE] * 24, 12, 13]]
    longest = max(map(len, ids))
    return {
        "input_ids": torch.tensor([[0] * (longest - len(one)) + one for one in ids]),
        "attention_mask": torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in ids]),
        "pixel_values": torch.randn(2, 3, 3, 24, 24, generator=draw),
        "image_sizes": torch.tensor([SQUARE, SQUARE]),
        "pixel_values_videos": torch.randn(1, frames, 3, 24, 24, generator=draw),
    }


@torch.no_grad()
def test_frames_of_a_video_are_planes_of_pooled_rows():
    tiny, family = tiny_llava_onevision(), find(tiny_llava_onevision().model)
    pixels = torch.randn(2, 3, 3, 24, 24)
    core = tiny.model.model
    shown = family.picture(tiny.model, {"pixel_values_videos": pixels})
    assert shown.lengths == (13, 13) and shown.views == (3, 3)
    patches = patches_of(tiny.model, pixels.flatten(0, 1))
    rows = core.apply_pooling(patches.unflatten(0, (6, 9))).reshape(2, 12, 64)
    for video in range(2):
        for n in range(13):
            at = 13 * video + n
            places = [int(x[at]) for x in (shown.plane_R, shown.view_R, shown.line_R, shown.column_R)]
            if n == 12:
                assert places == [-1] * 4 and not mixes(shown)[at]
                continue
            frame, place = divmod(n, 4)
            assert places == [frame, 3 * video + frame, *divmod(place, 2)]
            made = sum(share * patches[patch] for patch, share in mixes(shown)[at].items())
            assert torch.allclose(rows[video, n], made, atol=1e-5)
            box = [place % 2 / 2, place // 2 / 2, (place % 2 + 1) / 2, (place // 2 + 1) / 2]
            assert shown.box_R4[at].tolist() == pytest.approx(box)
    # An older get_video_features gives the argument the images' name.
    again = family.picture(tiny.model, {"pixel_values": pixels})
    assert torch.equal(again.mix_RM, shown.mix_RM) and again.lengths == shown.lengths


@pytest.mark.parametrize(
    ("plan", "recipe"), [("vskip(layers=1-2)", [("vskip", (1, 2))]), ("vtw(layer=2)", [("vtw", (2, 3))])]
)
@torch.no_grad()
def test_videos_and_images_in_one_prompt_equal_the_masked_reference(plan, recipe):
    tiny, given = tiny_llava_onevision(), filmed(3)
    with saccade.apply(tiny.model, plan):
        ours = tiny.model(**given).logits
    assert gap(ours, recompute(tiny.model, recipe, given).logits, given["attention_mask"]) < 1e-5


@torch.no_grad()
def test_reducers_take_a_video_for_one_image():
    tiny, given = tiny_llava_onevision(), filmed(3)
    kept = {}
    zipped = "visionzip(dominant=3,contextual=2,share=image)"
    for plan in ("fastervlm(keep=5,share=image)", zipped, "uniform(keep=5)", "pool(factor=2)"):
        with saccade.apply(tiny.model, plan) as handle, handle.tracing() as traces:
            tiny.model(**given)
        kept[plan] = traces[0].kept(3)
    for plan, (first, second) in kept.items():
        video, image = [n for n in first if n < 15], [n for n in first if n >= 15]
        sizes = (len(video), len(image), len(second))
        # Pooled twice a frame is one row, and a newline stays behind it.
        assert sizes == ((5, 5, 5) if "pool" not in plan else (4, 4 + 2 * 3, 4 + 2 * 3)), plan


def test_tokens_merge_in_the_tower_only_where_rows_are_its_tokens():
    tiny = tiny_llava_onevision()
    with saccade.apply(tiny.model, "tome(r=2)") as handle, torch.no_grad():
        with handle.tracing() as traces:
            tiny.model(**tiny.batch([[3, SQUARE, 2], [1, WIDE, 1, TALL, 1]]))
        # Two views of 9 patches beside each other lose 4 each in two layers; newline rows go.
        assert [len(rows) for rows in traces[0].kept(3)][1] == 10
        for given in (tiny.batch([[2, BIG, 1]]), filmed(2)):
            with pytest.raises(ValueError, match="interpolates the features"):
                tiny.model(**given)


def test_pictures_with_and_without_interpolated_rows_come_together():
    whole = of_grids([(1, 1, 2)])
    tiny = tiny_llava_onevision()
    video = find(tiny.model).picture(tiny.model, {"pixel_values_videos": torch.zeros(1, 1, 3, 24, 24)})
    both = Picture.join([whole, video])
    assert mixes(both)[:2] == [{0: 1.0}, {1: 1.0}]
    assert mixes(both)[2:] == [{n + 2: share for n, share in mix.items()} for mix in mixes(video)]
    assert mixes(both.take([1, 0])) == mixes(both)[2:] + mixes(both)[:2]


@torch.no_grad()
def test_inputs_say_which_images_share_a_prompt():
    loaded = processors.onevision()
    asked = samples(("w1 w2", "w3", "w4 w5"), last=(60, 60))
    batch = models.inputs(loaded, asked)
    assert batch["batch_num_images"].tolist() == [2, 1]
    assert (batch["input_ids"] == IMAGE).sum(1).tolist() == [20, 0, len(rows_of((60, 60)))]
    loaded.model(**batch)
    # Where the counts do not fit, the processor says so.
    both = [picture(9, 9), picture(9, 9)]
    assert loaded.family.by_prompt(loaded.processor, ["<image> w1"], both) == both


@pytest.mark.parametrize(
    ("size", "fewer"), [((48, 48), True), ((400, 400), True), ((90, 91), True), ((20, 20), False)]
)
@torch.no_grad()
def test_a_lower_resolution_is_of_what_interpolation_leaves(size, fewer):
    loaded, counted = processors.onevision(), []
    question = [Sample("a", "t", "s", (picture(*size),), "w1")]
    for plan in (None, "resize(scale=0.8)", "resize(scale=0.5)"):
        counted.append(int((models.inputs(loaded, question, plan)["input_ids"] == IMAGE).sum()))
    assert counted == sorted(counted, reverse=True) and (counted[2] < counted[0]) == fewer


def test_an_explanation_shows_an_image_with_tiles_and_images_without(tmp_path):
    loaded = processors.onevision()
    alone = explain(loaded, [picture(90, 90)], "w1", "fastervlm(keep=0.4)", max_new_tokens=2)
    assert set(alone.views[0].planes.values()) == {0, 1} and alone.full == 29
    both = [picture(90, 90), picture(200, 100)]
    pair = explain(loaded, both, "w1", "fastervlm(keep=0.4)", max_new_tokens=2)
    boxes = [box for box in pair.views[1].boxes.values() if box is not None]
    # The square around a wide picture has two lines of padding, of which half a line each is none of it.
    assert len(boxes) == 9 and boxes[0][3] == pytest.approx(1 / 6, abs=0.02) and boxes[4][3] > 0.8
    assert len(alone.save(tmp_path)) == 2


def test_rows_laid_out_anew_are_refused():
    with pytest.raises(ValueError, match=r"LLaVA-OneVision cannot take other rows.*split=grid"):
        skip_vision.wrap(processors.onevision(), skip_vision.SkipVisionConfig(layout="llava-hd"))


def test_what_was_made_earlier_says_how_long_it_is():
    tiny = tiny_llava_onevision()
    family = find(tiny.model)

    def made(**lengths: int) -> dict:
        return {
            kind: T.modeling_outputs.BaseModelOutputWithPooling(pooler_output=[torch.zeros(n, 64)])
            for kind, n in lengths.items()
        }

    given = {"mm_encoder_outputs": made(image=29), "image_sizes": torch.tensor([BIG])}
    shown = family.picture(tiny.model, given)
    assert shown.mapped and shown.lengths == (29,)
    both = family.picture(tiny.model, {"mm_encoder_outputs": made(image=29, video=9)})
    assert both.lengths == (29, 9) and not both.mapped
    assert family.picture(tiny.model, {"mm_encoder_outputs": made(video=9)}).mapped
    assert not family.picture(tiny.model, {"mm_encoder_outputs": made(video=10)}).mapped
    assert family.picture(tiny.model, {}) is None
