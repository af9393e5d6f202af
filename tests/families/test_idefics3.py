"""Idefics3 and SmolVLM: the prompt tells which views are one picture, and the processor where tiles lie."""

from __future__ import annotations

import pytest
import torch
import transformers as T

import saccade
from families.test_pictures import ramp
from saccade.engine.prompt import layout_of_inputs
from saccade.families import FAMILIES, find
from support.folders import READS_IDEFICS
from support.models import BIG, FACTORIES, IMAGE, SQUARE, TALL, WIDE

SAMPLES = [[2, WIDE, 1, SQUARE, 2], [4], [TALL, BIG, 3], [1, SQUARE, SQUARE, 2]]
"""Tiles and none, in either order; a sample that begins with a picture; no picture."""
SIZES = [(240, 240), (300, 410), (500, 220), (330, 900), (24, 24), (20, 2000)]
SCALES = [(1, 13), (0.5, 5), (0.25, 1)]
LENGTHS = ((27, 9), (), (27, 45), (9, 9))


@pytest.mark.parametrize("name", ["idefics3-llama", "smolvlm-llama"])
@torch.no_grad()
def test_views_of_a_picture_are_put_together(name):
    tiny = FACTORIES[name]()
    family = find(tiny.model)
    given = tiny.batch(SAMPLES, "left", seed=2)
    assert layout_of_inputs(family, tiny.model, given).counts == LENGTHS
    bare = {key: x for key, x in given.items() if key != "input_ids"}
    embeds = tiny.model.get_input_embeddings()(given["input_ids"])
    for inputs in (given, bare | {"inputs_embeds": embeds}):
        with saccade.apply(tiny.model, "divprune(keep=0.5)") as handle, handle.tracing() as traces:
            tiny.model(**inputs)
        layout = traces[0].layout
        assert layout.counts == LENGTHS
        assert layout.views == (((9, 9, 9), (9,)), (), ((9, 9, 9), (9,) * 5), ((9,), (9,)))
    whole = family.grouped(tiny.model, family.picture(tiny.model, given), given)
    # The whole picture is the last view; tiles are planes of their own.
    planes = [plane for row in ((1, 2, 0), (0,), (1, 2, 0), (1, 2, 3, 4, 0), (0,), (0,)) for plane in row]
    assert whole.plane_R.tolist() == [plane for plane in planes for _ in range(9)]
    assert whole.view_R.tolist() == [view for view in range(len(planes)) for _ in range(9)]
    assert whole.box_R4[:9, 2:].max() == 1


@torch.no_grad()
def test_views_that_hold_padding_are_not_looked_into():
    tiny = FACTORIES["idefics3-llama"]()
    given = tiny.batch([[2, WIDE, 3]])
    mask = torch.ones((*given["pixel_values"].shape[:2], 24, 24), dtype=torch.long)
    with saccade.apply(tiny.model, "fastervlm(keep=0.5)"):
        plain = tiny.model(**given).logits
        assert torch.equal(tiny.model(**given, pixel_attention_mask=mask).logits, plain)
        mask[0, 0, :, 12:] = 0
        with pytest.raises(ValueError, match="not known which patch a row of this model is"):
            tiny.model(**given, pixel_attention_mask=mask)
    with saccade.apply(tiny.model, "fastv(layer=1,keep=0.5)") as handle, handle.tracing() as traces:
        tiny.model(**given, pixel_attention_mask=mask)
    assert traces[0].layout.counts == ((27,),)


@pytest.mark.parametrize("size", SIZES if READS_IDEFICS else [])
def test_crops_are_what_the_tiles_show(size):
    """Through the real image processor: the colours of a tile's corners say where in the picture it is."""
    image = ramp(*size)
    images = T.Idefics3ImageProcessorPil(size={"longest_edge": 96}, max_image_size={"longest_edge": 24})
    made = images(image, do_rescale=False, do_normalize=False, return_tensors="pt")["pixel_values"][0].float()

    class Processor:
        image_processor = images

    planes = FAMILIES["idefics3"].crops(Processor(), image) or [(0.0, 0.0, 1.0, 1.0)]
    assert len(planes) == len(made)
    # Tiles come first, the whole picture last.
    for view, (left, top, right, bottom) in zip(made, planes[1:] + planes[:1], strict=True):
        told = view[0].mean() / 255, view[1].mean() / 255
        assert float(told[0]) == pytest.approx((left + right) / 2, abs=0.05)
        assert float(told[1]) == pytest.approx((top + bottom) / 2, abs=0.05)


@pytest.mark.parametrize(("scale", "views"), SCALES if READS_IDEFICS else [])
def test_a_lower_resolution_is_fewer_tiles(scale, views):
    images = T.Idefics3ImageProcessorPil(size={"longest_edge": 96}, max_image_size={"longest_edge": 24})

    class Processor:
        image_processor = images

    (image,), sizes = FAMILIES["idefics3"].smaller(Processor(), [ramp(320, 240)], scale)
    assert images(image, **sizes, return_tensors="np")["pixel_values"].shape[1] == views


def test_a_placeholder_more_than_there_are_features_is_left_to_the_stock_model():
    tiny = FACTORIES["idefics3-llama"]()
    given = tiny.batch([[2, SQUARE, 3]])
    given["input_ids"][0, -1] = IMAGE
    # Early releases leave it to torch, which counts numbers.
    refused = pytest.raises((ValueError, RuntimeError), match=r"10|number of ones in mask")
    with saccade.apply(tiny.model, "fastv(layer=1,keep=0.5)"), refused:
        tiny.model(**given)
