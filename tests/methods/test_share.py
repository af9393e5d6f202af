"""Numbers of every view, as the authors count them: whole padded grids, held against shorter stock prompts.

Shape letters: P patches of a view, D hidden.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from saccade import apply
from saccade.core.pricing import cost
from saccade.core.shapes import SHAPES
from saccade.engine.prompt import layout_of_inputs
from saccade.families import find
from saccade.methods import METHODS
from saccade.plans.plan import Plan
from support.models import BANNER, BIG, FACTORIES, SQUARE, TALL, WIDE, Tiny
from support.shorter import Shown, compare
from support.tower_reference import Pair, View, rows_fastervlm, rows_vispruner, tokens_visionzip

NARROW = (48, 10)
"""An image of which its tiles show little but padding: rows 21, patches of three views 27."""
SAMPLES = [[3, SQUARE, 5], [4], [2, BANNER, 1, BIG, 3], [1, NARROW, 2, WIDE, 4]]
SPECS = {
    "fastervlm(keep=4)": lambda views: of_rows(views, rows_fastervlm(views, 4 * len(views))),
    "fastervlm(keep=0.3)": lambda views: of_rows(views, rows_fastervlm(views, 3 * len(views))),
    "vispruner(keep=5,important=0.4)": lambda views: of_rows(
        views, rows_vispruner(views, 5 * len(views), 0.4)
    ),
    "visionzip(dominant=3,contextual=2)": lambda views: tokens_visionzip(
        views, 5 * len(views), 2 * len(views)
    ),
    "visionzip(dominant=0.25,contextual=0.12)": lambda views: tokens_visionzip(
        views, 3 * len(views), len(views)
    ),
}


def of_rows(views: list[View], rows: list[int]) -> list[Pair]:
    """Patches as tokens, by what was their row."""
    where = {row: (view, patch) for view in views for patch, row in view.rows}
    return [(where[row][0], {"feature": where[row][0].features_PV[where[row][1]]}) for row in rows]


def whole(image: Shown) -> list[View]:
    """The views with all their patches; the tiles' are numbered line by line over all tiles."""
    patches, side = 9, 3
    tiles = len(image.views) - 1
    # The whole picture's lines end after three columns, the tiles' after three of each tile side by side.
    across = max((column for plane, _, column in image.places if plane == 1), default=0) // side + 1
    across = {2: across, 4: 2}[tiles]
    found = []
    for number, view in enumerate(image.views):
        place = []
        for patch in range(patches):
            line, column = divmod(patch, side)
            if number:
                down, right = divmod(number - 1, across)
                raster = (down * side + line) * across * side + right * side + column
                place.append((patch, patches + raster))
            else:
                place.append((patch, patch))
        found.append(replace(view, rows=place))
    return found


def account(tiny: Tiny, spec: str, image: Shown) -> list[torch.Tensor]:
    """What the authors' code gives the decoder for an image."""
    project = tiny.model.model.multi_modal_projector
    left = [project(token["feature"]) for _, token in SPECS[spec](whole(image))]
    # A prompt cannot hold more of an image than it has rows: such an image stays as it is.
    return left if len(left) < len(image.rows) else list(image.states_ND)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("name", ["llava_next-llama", "llava_next-mistral"])
def test_every_view_keeps_the_same_number_of_all_its_patches(name, spec):
    tiny = FACTORIES[name](layers=3)
    compare(tiny, spec, "made", lambda image: account(tiny, spec, image), SAMPLES)


def test_the_samples_hold_patches_that_no_row_holds():
    tiny = FACTORIES["llava_next-llama"](layers=2)
    inputs = tiny.batch(SAMPLES)
    picture = find(tiny.model).picture(tiny.model, inputs)
    assert [len(unseen) for unseen in picture.unseen] == [6, 12, 0, 12, 0]
    assert picture.view_sizes == tuple((9,) * views for views in (3, 3, 5, 3, 3))


@pytest.mark.parametrize(
    "spec", ["fastervlm(keep=3)", "vispruner(keep=3)", "visionzip(dominant=2,contextual=1)"]
)
@torch.no_grad()
def test_where_views_are_whole_an_image_shares_alike(spec):
    """InternVL's tiles have no padding: three of each of three views are nine of the image."""
    tiny = FACTORIES["internvl-qwen2"](layers=2)
    inputs = tiny.batch([[3, WIDE, 5], [2, TALL, 4]])
    times = {"keep=3": "keep=9", "dominant=2": "dominant=6", "contextual=1": "contextual=3"}
    by_image = spec[:-1] + ",share=image)"
    for few, many in times.items():
        by_image = by_image.replace(few, many)
    found = []
    for each in (spec, by_image):
        with apply(tiny.model, each):
            found.append(tiny.model(**inputs).logits)
    assert torch.equal(*found)


@torch.no_grad()
def test_interpolated_rows_are_what_their_views_have():
    """OneVision interpolates the tiles of a large image: no patch is missing, and rows are shared out."""
    tiny = FACTORIES["llava_onevision"](layers=2)
    inputs = tiny.batch([[3, BIG, 5]])
    picture = find(tiny.model).picture(tiny.model, inputs)
    assert picture.mix_RM is not None and not any(len(unseen) for unseen in picture.unseen)
    with apply(tiny.model, "fastervlm(keep=2)") as handle, handle.tracing() as traces:
        tiny.model(**inputs)
    assert len(traces[0].kept(0)[0]) == sum(min(2, size) for size in picture.view_sizes[0])


@pytest.mark.parametrize("share", ["view", "image"])
@pytest.mark.parametrize("spec", ["fastervlm(keep={},share={})", "vispruner(keep={},share={})"])
@pytest.mark.parametrize("keep", [4, 0.2, 0.6])
@pytest.mark.parametrize("name", ["llava_next-llama", "internvl-qwen2", "llava_onevision", "qwen2_5_vl"])
@torch.no_grad()
def test_prices_are_of_what_runs(name, spec, keep, share):
    tiny, spec = FACTORIES[name](layers=3), spec.format(keep, share)
    for size in (SQUARE, WIDE, BANNER):
        inputs = tiny.batch([[3, size, 5]])
        layout = layout_of_inputs(find(tiny.model), tiny.model, inputs)
        with apply(tiny.model, spec) as handle, handle.tracing() as traces:
            tiny.model(**inputs)
        shape = find(tiny.model).shape(tiny.model.config)
        priced = cost(shape, handle.plan.route(layout, 3))
        ran = cost(shape, traces[0].route)
        # Newline rows are counted as kept where the budget of an image would hold them.
        patches = sum(sum(views) for views in layout.views[0])
        if share == "view" or patches >= layout.counts[0][0]:
            assert priced.tflops == ran.tflops and priced.kv_bytes == ran.kv_bytes


def test_a_shape_says_what_its_images_are_cut_into():
    shape = SHAPES["llava-next-7b"]
    assert shape.views(2880) == shape.views(2928) == (576,) * 5
    assert shape.views(576) == (576,) and shape.views(300) == (300,) and shape.views(0) == ()
    # Four full views and one that unpadding has left little of look like four.
    assert shape.views(2340) == (576,) * 4 and shape.views(2340, 5) == (576,) * 5
    assert SHAPES["internvl3-8b"].views(3328) == (256,) * 13
    assert SHAPES["qwen2.5-vl-7b"].views(1280) == (1280,)


@pytest.mark.parametrize("name", ["fastervlm", "vispruner", "visionzip"])
def test_shares_are_of_views_or_of_the_image(name):
    cls: Any = METHODS[name]
    assert cls().share == "view"
    with pytest.raises(ValueError, match="share is view, frame or image"):
        cls(share="tile")


def test_published_numbers_of_five_views():
    from saccade.core.layout import Layout

    def rows(spec: str, views: int) -> float:
        layout = Layout.single(2880, 60, views=(576,) * views)
        return cost(SHAPES["llava-next-7b"], Plan.of(spec).route(layout, 32)).equivalent_tokens

    assert rows("visionzip", 5) == 320 and rows("visionzip(share=image)", 5) == 64
    assert rows("visionzip(dominant=27,contextual=5)", 5) == 160
    assert rows("fastervlm(keep=29)", 5) == 145 and rows("fastervlm(keep=0.05)", 5) == 145
    assert rows("vispruner(keep=32)", 5) == 160 and rows("vispruner(keep=32)", 4) == 128


@pytest.mark.parametrize("then", ["uniform(keep=4)", "pool(factor=2)", "vispruner(keep=2)"])
@torch.no_grad()
def test_what_takes_rows_for_their_patches_does_not_come_after_padding(then):
    """Where padding took the place of rows, a later method by place is refused; without padding it runs."""
    tiny = FACTORIES["llava_next-llama"](layers=2)
    for spec, size, works in (
        ("fastervlm(keep=4)", WIDE, True),
        ("fastervlm(keep=4)", BANNER, False),
        ("fastervlm(keep=12,share=image)", BANNER, True),
    ):
        inputs = tiny.batch([[3, size, 5]])
        with apply(tiny.model, f"{spec}+{then}"):
            if works:
                assert bool(tiny.model(**inputs).logits.isfinite().all())
            else:
                with pytest.raises(ValueError, match="share=image"):
                    tiny.model(**inputs)
