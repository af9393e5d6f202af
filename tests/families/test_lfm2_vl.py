"""LFM2-VL: layers that convolve, against the stock layer on prompts that are shorter; views of any size."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

import saccade
from matrix.cases import PLANS, SCENES, TOLERANCE, greedy
from saccade.core.layout import Layout
from saccade.core.pricing import cost
from saccade.core.shapes import SHAPES
from saccade.families import find
from saccade.families.vision import joined
from saccade.plans.budget import price_prompt
from saccade.plans.plan import Plan
from support.models import BANNER, IMAGE, SQUARE, TALL, VISION_END, WIDE, tiny_lfm2_vl
from support.reference import gap
from support.states import check_layers, check_refused, layer_flops

PATTERNS = {"published": lambda n: n % 3 != 2, "in turn": lambda n: n % 2 == 0}
"""Which layers convolve: two of three, as the published models begin; every second one from the first."""
STATIC = [plan for plan in PLANS if "mask" not in plan]
APART = [[3, WIDE, 2, SQUARE, 4], [2, BANNER, 3, TALL, 2]]


@pytest.fixture(scope="module", params=PATTERNS)
def tiny(request):
    return tiny_lfm2_vl(recurrent=PATTERNS[request.param])


@pytest.mark.share(4)
@pytest.mark.parametrize("plan", STATIC)
@pytest.mark.parametrize("scene", SCENES)
def test_every_layer_equals_the_stock_layer_on_the_rows_that_are_alive(tiny, plan, scene):
    check_layers(tiny, plan, scene)


@torch.no_grad()
def test_a_dropped_row_leaves_the_window_of_the_convolution(tiny):
    """Text after a picture that is gone sees the text before it, as in a prompt without the picture."""
    (given,) = tiny.singles([[5, SQUARE, 4]], seed=2)
    text = ~tiny.visual(given)
    with saccade.apply(tiny.model, "vtw(layer=0)"):
        ours = tiny.model(**given).logits
    ids = given["input_ids"][text][None]
    at = torch.arange(given["input_ids"].shape[1])[None][text][None]
    theirs = tiny.model(input_ids=ids, position_ids=at, attention_mask=torch.ones_like(ids)).logits
    assert gap(ours[text][None], theirs) < TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize("plan", ["dense", "vskip(layers=0-1)", "shortv(layers=0-1)", "vtw(layer=1)"])
def test_flops_of_layers_that_convolve_are_what_torch_counts(tiny, plan):
    family, given = find(tiny.model), tiny.batch(APART[:1], seed=3)
    shape = family.shape(tiny.model.config)
    priced = cost(shape, Plan.of(plan).route(Layout.from_mask(tiny.visual(given)), shape.layers))
    assert layer_flops(tiny, plan, given) == round(priced.executed_tflops * 1e12)


def test_skipping_attention_in_a_layer_that_convolves_spares_nothing():
    shape = SHAPES["lfm2.5-vl-1.6b"]
    prices = [
        price_prompt(Plan.of(spec), shape, 256, 40) for spec in ("vskip(layers=0-1)", "vskip(layers=2)")
    ]
    assert prices[0].ratio == prices[0].executed_ratio == 1 and prices[1].ratio < 1
    # Six layers of 16 hold keys.
    assert prices[1].kv_bytes == 6 * 2 * 296 * 8 * 64 * 2


REFUSED = {
    "fastv(layer=1,keep=0.5)": "attention of layer 0, which is recurrent .* before layer 2",
    "vskip(layers=0,reading=mask)": "layer 0 is recurrent, .* not hidden from some rows",
    "skip_vision(retained=0.5,cache=small)": "layer 0 is recurrent, .* do not leave it",
    "tome(r=2)": "tokens cannot merge inside the vision tower of LFM2-VL",
}


@pytest.mark.parametrize("plan", REFUSED)
def test_what_a_convolution_or_the_tower_cannot_do_is_refused_in_one_line(plan):
    check_refused(tiny_lfm2_vl(recurrent=PATTERNS["in turn"]), plan, REFUSED[plan])


def test_biases_that_padding_would_write_into_states_are_refused():
    model = copy.deepcopy(tiny_lfm2_vl().model)
    model.config.text_config.conv_bias = True
    with pytest.raises(ValueError, match="LFM2-VL with conv_bias: padding would write"):
        saccade.apply(model, "vtw(layer=2)")


@torch.no_grad()
def test_views_of_an_image_are_one_and_the_last_of_them_is_the_whole(tiny):
    family, given = find(tiny.model), tiny.batch(APART, seed=4)
    apart = family.picture(tiny.model, given)
    # Two tiles and the whole, one view, one view, two tiles and the whole: by their rows.
    assert apart.lengths == (9, 9, 8, 9, 6, 9, 9, 8) and apart.views == (1,) * 8
    shown = family.grouped(tiny.model, apart, given)
    assert shown.lengths == (26, 9, 6, 26) and shown.views == (3, 1, 1, 3)
    assert shown.view_sizes == ((9, 9, 8), (9,), (6,), (9, 9, 8))
    planes = [shown.plane_R[shown.view_R == view].unique().tolist() for view in range(8)]
    assert planes == [[1], [2], [0], [0], [0], [1], [2], [0]]
    embeds = tiny.model.get_input_embeddings()(given["input_ids"])
    told = {"inputs_embeds": embeds, **{k: v for k, v in given.items() if k != "input_ids"}}
    assert family.grouped(tiny.model, apart, told).lengths == shown.lengths


def test_a_row_is_a_square_of_patches_line_by_line():
    projector = tiny_lfm2_vl().model.model.multi_modal_projector
    made = projector.pixel_unshuffle(torch.arange(24.0).view(1, 4, 6, 1)).reshape(-1, 4)
    assert [sorted(row) for row in made.tolist()] == [
        sorted(row) for row in joined([(4, 6)], 2).view(-1, 4).tolist()
    ]


@torch.no_grad()
def test_padding_of_views_is_neither_scored_nor_asked(tiny):
    """What the tower says of a picture beside a larger one is what it says of it alone."""
    (given,) = tiny.singles([[2, BANNER, 3, WIDE, 2]], seed=6)
    pixels = {k: v for k, v in given.items() if k not in ("input_ids", "attention_mask")}
    ends = (given["input_ids"][0] == VISION_END).nonzero()[:, 0] + 1
    kept = []
    for words, views in (
        (slice(0, ends[0]), slice(0, 1)),
        (slice(ends[0], None), slice(1, 4)),
        (slice(None),) * 2,
    ):
        ids = given["input_ids"][:, words]
        part = {key: value[views] for key, value in pixels.items()}
        with saccade.apply(tiny.model, "fastervlm(keep=4)") as handle, handle.tracing() as traces:
            tiny.model(input_ids=ids, attention_mask=torch.ones_like(ids), **part)
        visual = (ids[0] == IMAGE).nonzero()[:, 0].tolist()
        kept.append([visual.index(row) for row in traces[0].kept(3)[0]])
    assert kept[2] == kept[0] + [6 + row for row in kept[1]]


@torch.no_grad()
def test_generation_keeps_the_map_of_a_picture(tiny):
    """Stock generation makes features before the core runs and hands no shapes on."""
    given = tiny.singles([[3, WIDE, 4]], seed=7)[0]
    with saccade.apply(tiny.model, "uniform(keep=0.5)") as handle, handle.tracing() as traces:
        greedy(tiny, given, 2)
        said = traces[0].kept(3)[0]
    with saccade.apply(tiny.model, "uniform(keep=0.5)") as handle, handle.tracing() as traces:
        tiny.model(**given)
        assert traces[0].kept(3)[0] == said


class _Processor:
    """The sizes of the published processor, and what it asks itself."""

    image_token = "<image>"
    image_processor = SimpleNamespace(
        encoder_patch_size=16, downsample_factor=2, max_image_tokens=256, max_pixels_tolerance=2.0,
        tile_size=512, min_tiles=2, max_tiles=10, do_image_splitting=True, use_thumbnail=True,
        _is_image_too_large=lambda h, w, *rest: h * w > 2 * 512 * 512,
        _get_grid_layout=lambda h, w, *rest: (3, 2, 1536, 1024, 6),
    )  # fmt: skip


def test_tiles_and_smaller_pictures():
    family = find(tiny_lfm2_vl().model)
    boxes = family.crops(_Processor, Image.new("RGB", (1024, 768)))
    assert boxes[0] == (0.0, 0.0, 1.0, 1.0) and len(boxes) == 7
    assert boxes[2] == (1 / 3, 0.0, 2 / 3, 0.5)
    assert family.crops(_Processor, Image.new("RGB", (336, 336))) == []
    # One that is cut into tiles shrinks from what they show, another from the most rows of one view.
    sizes = {(4000, 3000): (935, 701), (1024, 768): (512, 384), (600, 600): (256, 256), (64, 32): (32, 16)}
    for size, fits in sizes.items():
        (small,), more = family.smaller(_Processor, [Image.new("RGB", size)], 0.5)
        assert small.size == fits and more == {"min_image_tokens": 1}
    assert family.by_prompt(_Processor, ["a <image>", "b"], ["picture"]) == [["picture"], []]
