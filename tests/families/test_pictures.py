"""Which patch of the picture every visual row is, against accounts that do not use the families' code."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers as T
from PIL import Image
from torch import nn

from saccade.engine.tower import TowerTap
from saccade.families import find
from saccade.families.vision import Picture, of_grids
from support.models import (
    BANNER,
    BIG,
    FACTORIES,
    IMAGE,
    SQUARE,
    TALL,
    VIDEO,
    WIDE,
    tiny_llava,
    tiny_llava_next,
    tiny_qwen,
)

SAMPLES = [[3, SQUARE, 2], [4], [1, WIDE, 1, TALL, 1], [2, BANNER, 1, BIG]]
ODD = [(30, 41), (13, 47), (50, 20), (7, 90), (24, 24), (33, 34)]
PINPOINTS = [[24, 48], [48, 24], [48, 48]]


def next_inputs(sizes: list[tuple[int, int]], seed: int = 0) -> dict[str, torch.Tensor]:
    """Pixels of images of any size for the tiny LLaVA-NeXT, as its processor would shape them."""
    draw = torch.Generator().manual_seed(seed)
    tiles = [account(size)["tiles"] + 1 for size in sizes]
    pixels = torch.randn(len(sizes), max(tiles), 3, 24, 24, generator=draw)
    return {"pixel_values": pixels, "image_sizes": torch.tensor(sizes)}


def account(size: tuple[int, int]) -> dict:
    """Rows of one image of the tiny LLaVA-NeXT (tiles of 24 pixels, 3 x 3 patches), step by step."""
    height, width = size
    best, score = None, None
    for h, w in PINPOINTS:
        fit = min(w / width, h / height)
        used = min(int(width * fit) * int(height * fit), width * height)
        if score is None or (used, -(h * w - used)) > score:
            best, score = (h, w), (used, -(h * w - used))
    down, across = best[0] // 24, best[1] // 24
    lines, columns = list(range(3 * down)), list(range(3 * across))
    if width / height > len(columns) / len(lines):
        pad = (len(lines) - int(round(height * len(columns) / width, 7))) // 2
        lines = lines[pad : len(lines) - pad]
    else:
        pad = (len(columns) - int(round(width * len(lines) / height, 7))) // 2
        columns = columns[pad : len(columns) - pad]
    rows = [(0, i, j, 3 * i + j) for i in range(3) for j in range(3)]
    for i in lines:
        for j in columns:
            tile = 1 + (i // 3) * across + j // 3
            rows.append((1, i - lines[0], j - columns[0], 9 * tile + 3 * (i % 3) + j % 3))
        rows.append(None)
    return {"rows": rows, "tiles": down * across}


OWN = (
    "llava_onevision",
    "internvl",
    "idefics3",
    "smolvlm",
    "lfm2_vl",
    "mistral3",
    "llava-pixtral",
    "gemma3",
    "paligemma",
    "molmo2",
    "llama4",
)
"""Models whose rows are told apart in tests of their own."""


@pytest.mark.parametrize("name", [n for n in FACTORIES if not n.startswith(OWN)])
@torch.no_grad()
def test_every_row_has_the_content_of_its_patch(name):
    """The features that the model packed are those of the patches that the picture names."""
    tiny = FACTORIES[name]()
    family, given = find(tiny.model), tiny.batch(SAMPLES)
    shown = family.picture(tiny.model, given)
    core = tiny.model.model
    packed = core.get_image_features(
        **{k: v for k, v in given.items() if k in ("pixel_values", "image_sizes", "image_grid_thw")}
    ).pooler_output
    assert shown.mapped and shown.lengths == tuple(len(rows) for rows in packed)
    assert sum(shown.lengths) == int(tiny.visual(given).sum())
    packed = torch.cat(list(packed))
    if tiny.family == "qwen":
        patches = core.visual(given["pixel_values"], grid_thw=given["image_grid_thw"]).pooler_output
        newline = torch.zeros(0)
    else:
        pixels = given["pixel_values"]
        if pixels.ndim == 5:
            views = [account(tuple(size))["tiles"] + 1 for size in given["image_sizes"].tolist()]
            pixels = torch.cat([image[:n] for image, n in zip(pixels, views, strict=True)])
        states = core.vision_tower(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
        patches, newline = (
            core.multi_modal_projector(states).flatten(0, 1),
            getattr(core, "image_newline", None),
        )
    for row, patch in zip(packed, shown.patch_R.tolist(), strict=True):
        assert torch.allclose(row, patches[patch] if patch >= 0 else newline, atol=1e-5)
    none = shown.patch_R < 0
    assert shown.patches == len(patches)
    for at in (shown.view_R, shown.plane_R, shown.line_R, shown.column_R):
        assert bool((at[none] == -1).all()) and bool((at[~none] >= 0).all())
    assert bool((shown.box_R4[none] == 0).all())


def test_llava_rows_are_a_raster():
    tiny = tiny_llava()
    shown = find(tiny.model).picture(tiny.model, tiny.batch(SAMPLES))
    for image in range(5):
        for n in range(16):
            at = 16 * image + n
            assert (int(shown.view_R[at]), int(shown.plane_R[at])) == (image, 0)
            assert (int(shown.line_R[at]), int(shown.column_R[at])) == divmod(n, 4)
            box = [n % 4 / 4, n // 4 / 4, (n % 4 + 1) / 4, (n // 4 + 1) / 4]
            assert torch.allclose(shown.box_R4[at], torch.tensor(box))


@torch.no_grad()
def test_next_rows_are_as_counted_by_hand():
    tiny = tiny_llava_next()
    given = next_inputs(ODD)
    shown = find(tiny.model).picture(tiny.model, given)
    patches = at = view = 0
    for image, size in enumerate(ODD):
        told = account(size)
        assert shown.lengths[image] == len(told["rows"]) and shown.views[image] == told["tiles"] + 1
        for row in told["rows"]:
            found = [int(x[at]) for x in (shown.plane_R, shown.line_R, shown.column_R, shown.patch_R)]
            assert found == ([-1] * 4 if row is None else [*row[:3], patches + row[3]])
            assert int(shown.view_R[at]) == (-1 if row is None else view + row[3] // 9)
            at += 1
        patches, view = patches + 9 * (told["tiles"] + 1), view + told["tiles"] + 1
    assert at == len(shown.patch_R)
    packed = tiny.model.get_image_features(**given).pooler_output
    assert shown.lengths == tuple(len(rows) for rows in packed)


def ramp(height: int, width: int) -> Image.Image:
    """A picture whose red tells how far right, whose green tells how far down."""
    right = np.linspace(0, 255, width)[None].repeat(height, 0)
    down = np.linspace(0, 255, height)[:, None].repeat(width, 1)
    return Image.fromarray(np.stack([right, down, 0 * down], -1).round().astype("uint8"))


def clip_images(side: int) -> T.CLIPImageProcessorPil:
    return T.CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})


@pytest.mark.parametrize("size", [(240, 240), (300, 410), (500, 220), (330, 900)])
@pytest.mark.parametrize("family", ["llava", "llava_next", "qwen"])
def test_boxes_show_what_the_patches_show(family, size):
    """Through the real image processors: the colours of a patch say where in the picture it is."""
    image = ramp(*size)
    plain = {"do_rescale": False, "do_normalize": False, "return_tensors": "pt", "images": image}
    if family == "llava":
        tiny, processor = tiny_llava(), clip_images(32)
        given = processor(**plain)
        cells = given["pixel_values"].unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5).flatten(4)
        cells = cells.flatten(0, 2)
    elif family == "llava_next":
        tiny = tiny_llava_next()
        processor = T.LlavaNextImageProcessorPil(
            size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24}, image_grid_pinpoints=PINPOINTS
        )
        given = processor(**plain)
        cells = given["pixel_values"][0].unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5).flatten(4)
        cells = cells.flatten(0, 2)
    else:
        tiny = tiny_qwen()
        processor = T.Qwen2VLImageProcessorPil(patch_size=4, size={"shortest_edge": 64, "longest_edge": 4096})
        given = processor(**plain)
        cells = given["pixel_values"].unflatten(1, (3, -1)).unflatten(0, (-1, 4)).transpose(1, 2).flatten(2)
    adapter = find(tiny.model)
    shown = adapter.picture(tiny.model, given)
    seen = np.asarray(adapter.seen(SimpleNamespace(image_processor=processor), image)).astype(float)
    told = torch.as_tensor(cells).float().mean(-1)
    rows = (shown.patch_R >= 0).nonzero()[:, 0].tolist()
    compared = 0
    for row in rows:
        left, top, right, bottom = (shown.box_R4[row] * torch.tensor([1, 1, 1, 1])).tolist()
        assert 0 <= left < right <= 1 and 0 <= top < bottom <= 1
        patch = told[shown.patch_R[row]]
        y = np.arange(seen.shape[0]) / seen.shape[0]
        x = np.arange(seen.shape[1]) / seen.shape[1]
        area = seen[np.ix_((y >= top) & (y < bottom), (x >= left) & (x < right))]
        # Patches that reach into the black padding of a tile are darker than their part of the picture.
        plane = shown.plane_R[row]
        widths = (shown.box_R4[:, 2] - shown.box_R4[:, 0])[shown.plane_R == plane]
        heights = (shown.box_R4[:, 3] - shown.box_R4[:, 1])[shown.plane_R == plane]
        if area.size and right - left > 0.9 * widths.max() and bottom - top > 0.9 * heights.max():
            assert abs(area[..., 0].mean() - patch[0]) < 14 and abs(area[..., 1].mean() - patch[1]) < 14
            compared += 1
    assert compared > len(rows) / 2


@torch.no_grad()
def test_a_cls_row_among_the_features_is_no_patch():
    tiny = tiny_llava()
    tiny.model.config.vision_feature_select_strategy = "full"
    given = {"pixel_values": tiny.batch([[SQUARE, SQUARE]])["pixel_values"]}
    shown = find(tiny.model).picture(tiny.model, given)
    assert shown.lengths == (17, 17) == tuple(map(len, tiny.model.get_image_features(**given).pooler_output))
    assert shown.patch_R.tolist() == [-1, *range(16), -1, *range(16, 32)]
    assert shown.line_R[:6].tolist() == [-1, 0, 0, 0, 0, 1]


def siglip(strategy: str = "full") -> T.LlavaForConditionalGeneration:
    config = tiny_llava().model.config
    config.vision_config = T.SiglipVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, image_size=32,
        patch_size=8,
    )  # fmt: skip
    config.vision_feature_select_strategy = strategy
    torch.manual_seed(0)
    return T.LlavaForConditionalGeneration(config).eval()


def test_a_tower_without_cls_row():
    pixels = torch.randn(2, 3, 32, 32)
    whole, cut = siglip(), siglip("default")
    family = find(whole)
    assert family.picture(whole, {"pixel_values": pixels}).patch_R.tolist() == list(range(32))
    # Stock code takes the first row off whatever it is; the picture says what is left.
    assert family.picture(cut, {"pixel_values": pixels}).patch_R.tolist() == [*range(1, 16), *range(17, 32)]
    tower = family.tower(whole)
    assert not tower.has_cls and not tower.strips and family.tower(cut).strips


def test_other_sizes_of_the_picture_are_read_off_the_pixels():
    tiny = tiny_llava()
    shown = find(tiny.model).picture(tiny.model, {"pixel_values": torch.zeros(1, 3, 16, 24)})
    assert shown.lengths == (6,) and shown.line_R.tolist() == [0, 0, 0, 1, 1, 1]
    assert shown.box_R4[-1].tolist() == pytest.approx([2 / 3, 0.5, 1, 1])


def features(*lengths: int) -> SimpleNamespace:
    return SimpleNamespace(pooler_output=[torch.zeros(n, 64) for n in lengths])


def test_features_made_earlier_say_how_long_images_are():
    tiny, family = tiny_llava(), find(tiny_llava().model)
    square = family.picture(tiny.model, {"mm_encoder_outputs": {"image": features(9, 9)}})
    assert (
        square.lengths == (9, 9)
        and square.mapped
        and square.line_R.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2] * 2
    )
    odd = family.picture(tiny.model, {"mm_encoder_outputs": {"image": features(10)}})
    assert odd.lengths == (10,) and not odd.mapped and odd.patch_R.tolist() == [-1] * 10
    wide = tiny_llava_next().model
    sizes = torch.tensor([(30, 41)])
    length = len(account((30, 41))["rows"])
    given = {"mm_encoder_outputs": {"image": features(length)}}
    assert not find(wide).picture(wide, given).mapped
    assert find(wide).picture(wide, {**given, "image_sizes": sizes}).mapped
    wrong = {"mm_encoder_outputs": {"image": features(length + 1)}, "image_sizes": sizes}
    assert find(wide).picture(wide, wrong).lengths == (length + 1,)


def test_grids_of_earlier_turns_are_passed_over():
    model = tiny_qwen().model
    grids = torch.tensor([[1, 4, 4], [1, 4, 8], [1, 8, 4]])
    given = {"mm_encoder_outputs": {"image": features(8, 8)}, "image_grid_thw": grids}
    shown = find(model).picture(model, given)
    assert shown.lengths == (8, 8) and shown.mapped and int(shown.column_R.max()) == 3
    given["mm_encoder_outputs"] = {"image": features(5)}
    assert not find(model).picture(model, given).mapped


@pytest.mark.parametrize("name", FACTORIES)
def test_text_alone_is_no_picture(name):
    tiny = FACTORIES[name]()
    assert find(tiny.model).picture(tiny.model, tiny.batch([[4]])) is None


def test_frames_of_a_video_are_planes_and_views():
    model = tiny_qwen().model
    given = {"pixel_values_videos": torch.zeros(1), "video_grid_thw": torch.tensor([[2, 4, 6]])}
    shown = find(model).picture(model, given)
    assert shown.lengths == (12,) and shown.views == (2,) and shown.patch_R.tolist() == list(range(12))
    assert shown.plane_R.tolist() == shown.view_R.tolist() == [0] * 6 + [1] * 6
    assert shown.line_R.tolist() == [0, 0, 0, 1, 1, 1] * 2 and shown.column_R.tolist() == [0, 1, 2] * 4


@torch.no_grad()
def test_images_and_videos_in_the_order_of_the_prompt():
    tiny = tiny_qwen()
    image, video = 9, 12
    ids = torch.tensor([[8, *[VIDEO] * video, 9, *[IMAGE] * image], [*[IMAGE] * 18, *[8] * 5]])
    draw = torch.Generator().manual_seed(0)
    grids = torch.tensor([[1, 6, 6], [1, 6, 12]])
    given = {
        "input_ids": ids,
        "pixel_values": torch.randn(108, 96, generator=draw),
        "image_grid_thw": grids,
        "pixel_values_videos": torch.randn(48, 96, generator=draw),
        "video_grid_thw": torch.tensor([[2, 4, 6]]),
        "mm_token_type_ids": (ids == IMAGE).int() + 2 * (ids == VIDEO).int(),
    }
    tap = TowerTap(tiny.model, find(tiny.model), frozenset({"made"}))
    tap.begin()
    tiny.model(**given)
    shown = tap.captured(inputs=given).picture
    with pytest.raises(ValueError, match="images and videos in one prompt need input_ids"):
        tap.captured()
    tap.remove()
    assert shown.lengths == (video, image, 18) and shown.views == (2, 1, 1)
    # Patches are counted over the run of the images, then that of the videos.
    assert shown.patch_R.tolist() == [*range(27, 39), *range(27)]
    assert shown.view_R.tolist() == [0] * 6 + [1] * 6 + [2] * 9 + [3] * 18


def test_images_may_be_taken_twice():
    shown = of_grids([(1, 1, 2), (2, 1, 1), (1, 2, 1)])
    both = shown.take([1, 0, 1])
    assert both.lengths == (2, 2, 2) and both.views == (2, 1, 2)
    assert both.patch_R.tolist() == [2, 3, 0, 1, 2, 3]
    assert both.view_R.tolist() == [0, 1, 2, 2, 3, 4]
    assert shown.views_of([1, 0, 1]) == [1, 2, 0, 1, 2]
    assert shown.take([]).lengths == () and Picture.unmapped([3]).take([0, 0]).lengths == (3, 3)


def test_a_tower_of_another_kind_is_not_taken_apart():
    model = tiny_llava().model
    model.config.vision_config.model_type = "another"
    assert find(model).tower(model) is None
    with pytest.raises(ValueError, match="cannot be looked into"):
        TowerTap(model, find(model), frozenset({"made"}))


def test_positions_that_cannot_close_up():
    assert find(tiny_llava().model).compact_positions and not find(tiny_qwen().model).compact_positions


@pytest.mark.parametrize("name", FACTORIES)
@torch.no_grad()
def test_rotary_tables_and_norms_are_those_of_the_stock_loop(name):
    tiny = FACTORIES[name]()
    family = find(tiny.model)
    parts, caught = family.parts(tiny.model), {}
    attn = parts.layers[1].self_attn

    def layer(module: nn.Module, args: tuple, kwargs: dict) -> None:
        caught.update(kwargs, stream=args[0] if args else kwargs["hidden_states"])

    def attention(module: nn.Module, args: tuple, kwargs: dict) -> None:
        caught["normed"] = args[0] if args else kwargs["hidden_states"]

    def decoder(module: nn.Module, args: tuple, kwargs: dict) -> None:
        caught["given"] = kwargs["position_ids"]

    hooks = [
        parts.layers[1].register_forward_pre_hook(layer, with_kwargs=True),
        parts.layers[1].self_attn.register_forward_pre_hook(attention, with_kwargs=True),
        parts.decoder.register_forward_pre_hook(decoder, with_kwargs=True),
    ]
    given = tiny.batch([[3, SQUARE, 5]])
    ids = torch.arange(given["input_ids"].shape[1])[None]
    tiny.model(**given, **({} if tiny.family == "qwen" else {"position_ids": ids}))
    for hook in hooks:
        hook.remove()
    assert torch.equal(family.input_norm(parts.layers[1], caught["stream"]), caught["normed"])
    for ours, stock in zip(
        family.rotary(parts.decoder, caught["stream"], caught["given"], family.rotary_kind(attn)),
        family.tables(attn, caught["position_embeddings"], ids),
        strict=True,
    ):
        assert torch.equal(ours, stock)
    rotary = family.tables(attn, caught["position_embeddings"], ids)
    assert torch.equal(
        family.keys(attn, caught["normed"], rotary), family.keys_values(attn, caught["normed"], rotary)[0]
    )
    if tiny.family == "qwen":
        flat = family.rotary(parts.decoder, caught["stream"], ids)
        assert torch.equal(
            flat[0], family.rotary(parts.decoder, caught["stream"], ids.expand(4, *ids.shape))[0]
        )
