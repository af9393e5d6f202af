"""A lower input resolution: shorter prompts from the processor, towers that take them."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import pytest
import torch
import transformers as T

import saccade
from saccade import models
from saccade.engine.tower import allow_other_sizes
from saccade.families import find
from saccade.methods.resize import Resize
from support.models import SQUARE, tiny_llava, tiny_llava_next, tiny_qwen
from support.pictures import picture, samples

QUESTIONS = samples(("how many circles ?", "how many ?", "how many ?"))


@pytest.fixture(scope="module")
def glance():
    return models.load("glance")


def rows(glance, batch) -> list[int]:
    return (batch["input_ids"] == glance.model.config.image_token_id).sum(1).tolist()


@torch.no_grad()
def test_glance_at_half_the_resolution(glance):
    full, half = (
        models.inputs(glance, QUESTIONS),
        models.inputs(glance, QUESTIONS, "resize(scale=0.5)"),
    )
    assert rows(glance, full) == [200, 0, 100] and rows(glance, half) == [50, 0, 25]
    assert half["pixel_values"].shape[-2:] == (40, 40)
    undo = allow_other_sizes(glance.model, glance.family)
    said = glance.model.generate(**half, max_new_tokens=4)
    undo()
    answers = models.answers(glance, said, half["input_ids"].shape[1])
    assert len(answers) == 3 and all(isinstance(a, str) for a in answers)
    with pytest.raises(ValueError, match="doesn't match model"):
        glance.model(**half)


@torch.no_grad()
def test_the_plan_lets_the_tower_take_them(glance):
    half = models.inputs(glance, QUESTIONS, "resize(scale=0.5)")
    undo = allow_other_sizes(glance.model, glance.family)
    expected = glance.model(**half).logits
    undo()
    with saccade.apply(glance.model, "resize(scale=0.5)"):
        assert torch.equal(glance.model(**half).logits, expected)
        said = glance.model.generate(**half, max_new_tokens=4)
    assert said.shape[1] > half["input_ids"].shape[1]
    with saccade.apply(glance.model, "resize(scale=0.5)+fastv(layer=2,keep=0.2)") as attached:
        with attached.tracing() as traces:
            glance.model(**half)
        assert [len(kept) for kept in traces[0].kept(5)] == [10, 0, 5]


@torch.no_grad()
def test_pictures_at_their_full_size_are_warned_of_once(glance):
    full, half = models.inputs(glance, QUESTIONS), models.inputs(glance, QUESTIONS, "resize(scale=0.5)")
    for run in (
        lambda given: glance.model(**given),
        lambda given: glance.model.generate(**given, max_length=220),
    ):
        with saccade.apply(glance.model, "resize(scale=0.5)"):
            with pytest.warns(UserWarning, match=r"as large as ever.*models.inputs"):
                run(full)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                run(full)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for plan, given in (
            ("resize(scale=0.5)", half),
            ("resize(scale=1)", full),
            ("vskip(layers=1)", full),
        ):
            with saccade.apply(glance.model, plan):
                glance.model(**given)


@torch.no_grad()
def test_models_of_any_size_are_warned_of_until_a_processor_was_told():
    tiny = tiny_qwen()
    images = T.Qwen2VLImageProcessorPil(patch_size=4, size={"shortest_edge": 64, "longest_edge": 16384})
    loaded = models.Loaded(
        tiny.model, SimpleNamespace(image_processor=images), find(tiny.model), None, "tiny"
    )
    given = tiny.batch([[3, SQUARE, 2]])
    for spec in ("resize(scale=0.5)", "resize(scale=0.5)+fastv(layer=1,keep=0.5)"):
        with saccade.apply(tiny.model, spec), pytest.warns(UserWarning, match="as large as ever"):
            tiny.model(**given)
    models.shrink(loaded, [picture(64, 64)], 0.5)
    with warnings.catch_warnings(), saccade.apply(tiny.model, "resize(scale=0.5)"):
        warnings.simplefilter("error")
        tiny.model(**given)


def test_scales_multiply_and_other_methods_do_not_count(glance):
    assert models.image_scale(None) == models.image_scale("dense") == 1
    assert models.image_scale("resize(scale=0.5)+vskip(layers=0)+resize(scale=0.8)") == pytest.approx(0.4)
    batch = models.inputs(glance, QUESTIONS, "resize(scale=0.5)+resize(scale=0.8)")
    assert rows(glance, batch) == [32, 0, 16]
    full, same = (
        models.inputs(glance, QUESTIONS),
        models.inputs(glance, QUESTIONS, "fastv(keep=0.1)"),
    )
    assert all(torch.equal(full[key], same[key]) for key in full)


def test_the_whole_resolution_changes_nothing(glance):
    full, same = (
        models.inputs(glance, QUESTIONS),
        models.inputs(glance, QUESTIONS, "resize(scale=1)"),
    )
    assert all(torch.equal(full[key], same[key]) for key in full)


def test_the_smallest_picture_is_one_patch(glance):
    tiny = models.inputs(glance, QUESTIONS, "resize(scale=0.001)")
    assert rows(glance, tiny) == [2, 0, 1] and Resize(scale=0.001).visual_rows(100) == 1


@pytest.mark.parametrize("scale", [0.1, 0.25, 0.33, 0.5, 0.7, 0.75, 0.9, 1.0])
def test_the_price_list_counts_what_the_processor_makes(glance, scale):
    batch = models.inputs(glance, QUESTIONS, f"resize(scale={scale})")
    assert rows(glance, batch)[2] == Resize(scale=scale).visual_rows(100)


def test_rows_of_a_price_list():
    assert Resize(scale=0.5).visual_rows(576) == 144 and Resize(scale=0.5).visual_rows(1280) == 320
    assert Resize(scale=0.01).visual_rows(1280) == 1 and Resize(scale=0.5).visual_rows(0) == 0
    assert Resize(scale=1).visual_rows(2340) == 2340
    for rows in (100, 576, 1280, 2340):
        turned = [
            Resize().at_strength(n).visual_rows(rows) for n in range(0, Resize().max_strength(32) + 1, 9)
        ]
        assert turned == sorted(turned, reverse=True) and turned[0] == rows


@pytest.mark.parametrize("scale", [0, -1, 1.5, True, float("nan"), "a"])
def test_wrong_scales_are_refused(glance, scale):
    with pytest.raises(ValueError, match=r"above 0 and at most 1|a finite number"):
        Resize(scale=scale)
    with pytest.raises(ValueError, match=r"above 0 and at most 1|a finite number"):
        models.shrink(glance, [picture(9, 9)], scale)


def next_processor() -> SimpleNamespace:
    images = T.LlavaNextImageProcessorPil(
        size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24},
        image_grid_pinpoints=[[24, 48], [48, 24], [48, 48]],
    )  # fmt: skip
    return SimpleNamespace(image_processor=images, patch_size=8)


@pytest.mark.parametrize("size", [(48, 48), (600, 600), (333, 250), (20, 20), (700, 31)])
@torch.no_grad()
def test_tiles_of_a_smaller_image_are_fewer(size):
    tiny, processor = tiny_llava_next(), next_processor()
    loaded = models.Loaded(tiny.model, processor, find(tiny.model), None, "tiny")
    counted = []
    for scale in (1.0, 0.5):
        images, more = models.shrink(loaded, [picture(*size)], scale)
        assert more == {}
        given = processor.image_processor(images, return_tensors="pt")
        (features,) = tiny.model.get_image_features(given["pixel_values"], given["image_sizes"]).pooler_output
        counted.append(len(features))
    assert counted[1] <= counted[0]
    if min(size) >= 48:
        # Large images fill their tiles whatever their size: it is the tiles' resolution that is halved.
        assert counted[1] < counted[0]


def test_qwen_stays_above_its_smallest_number_of_pixels():
    tiny = tiny_qwen()
    images = T.Qwen2VLImageProcessorPil(patch_size=4, size={"shortest_edge": 1024, "longest_edge": 16384})
    loaded = models.Loaded(
        tiny.model, SimpleNamespace(image_processor=images), find(tiny.model), None, "tiny"
    )

    def pixels(size: tuple[int, int], scale: float) -> int:
        small, more = models.shrink(loaded, [picture(*size)], scale)
        assert more == {}
        return int(images(small, return_tensors="pt")["image_grid_thw"].prod()) * 16

    assert pixels((64, 64), 1.0) == 4096 and pixels((64, 64), 0.5) == 1024
    assert pixels((64, 64), 0.1) == 1024, "the smallest that the processor makes"
    # Larger than the model ever sees: half of what it sees of it.
    assert pixels((1280, 1280), 1.0) == 16384 and pixels((1280, 1280), 0.5) == 4096
    # Smaller than it ever sees: enlarged as ever.
    assert pixels((16, 16), 0.5) == pixels((16, 16), 1.0) == 1024
    assert images(models.shrink(loaded, [picture(160, 80)], 0.5)[0], return_tensors="pt")[
        "image_grid_thw"
    ].tolist() == [[1, 10, 20]]


def test_fixed_sizes_of_every_kind_of_processor():
    family, image = find(tiny_llava().model), [picture(50, 40)]
    clip = T.CLIPImageProcessorPil(size={"shortest_edge": 48}, crop_size={"height": 32, "width": 32})
    siglip = T.SiglipImageProcessorPil(size={"height": 32, "width": 32})
    for processor, expected in ((clip, 16), (siglip, 16)):
        same, sizes = family.smaller(SimpleNamespace(image_processor=processor, patch_size=8), image, 0.5)
        assert same is image
        assert processor(same, return_tensors="pt", **sizes)["pixel_values"].shape[-2:] == (
            expected,
            expected,
        )
    assert family.smaller(SimpleNamespace(image_processor=clip, patch_size=8), image, 0.5)[1]["size"] == {
        "shortest_edge": 24
    }


def test_resize_drops_nothing_in_the_decoder():
    method = Resize()
    assert method.stages(12) == () and method.is_resolved and method.resolve(12) is method
    assert str(Resize(scale=0.25)) == "resize(scale=0.25)"
