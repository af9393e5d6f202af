"""Images that the attention mask hides are padding: nothing is decided about them, nothing lost by them.

Shape letters: B batch, N rows.
"""

from __future__ import annotations

import pytest
import torch

from saccade import apply
from saccade.core.layout import Layout
from support.models import FACTORIES, SQUARE, WIDE, tiny_llava, tiny_llava_next
from support.reference import gap

SAMPLES = [[2, SQUARE, 1, SQUARE, 4], [3, SQUARE, 6], [5]]
FAMILIES = (
    "llava-llama",
    "llava_next-mistral",
    "qwen2_5_vl",
    "qwen2_vl",
    "qwen3_vl",
    "llava_onevision",
    "internvl-qwen3",
)
SPECS = (
    "vskip(layers=1)+vtw(layer=2)",
    "victor(layer=1,registers=2)",
    "divprune(keep=0.5)",
    "fastervlm(keep=0.5)",
    "visionzip(dominant=3,contextual=2)",
    "pool(factor=2)",
    "fastv(layer=1,keep=0.5)",
    "skip_vision(retained=0.25,split=grid,cache=small)",
)


def hiding(tiny, inputs, image: int) -> dict[str, torch.Tensor]:
    """The same with an image of the first sample hidden."""
    runs = Layout.from_mask(tiny.visual(inputs)).image_BN[0] == image
    mask = inputs["attention_mask"].clone()
    mask[0, runs] = 0
    positions = {"position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}
    return inputs | {"attention_mask": mask} | ({} if tiny.family == "qwen" else positions)


@pytest.mark.share(3)
@pytest.mark.parametrize("image", [0, 1])
@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_a_hidden_image_is_as_good_as_none(name, spec, image):
    """The prompt without it, where positions do not count it; and of Qwen whatever its pixels are."""
    tiny = FACTORIES[name](layers=3)
    inputs = tiny.batch(SAMPLES, seed=1)
    given = hiding(tiny, inputs, image)
    real = given["attention_mask"].bool()
    with apply(tiny.model, spec) as handle, handle.tracing() as traces:
        ours = tiny.model(**given).logits
        said = tiny.model.generate(**given, max_new_tokens=3, do_sample=False)
        other = tiny.model(**(given | {"pixel_values": repainted(tiny, inputs, image)})).logits
    assert gap(ours, other, real) < 1e-6
    layout = traces[0].layout
    assert not bool((layout.visual_BN & ~real).any()) and len(layout.counts[0]) == 1
    assert said.shape[1] == real.shape[1] + 3
    if tiny.family in ("llava", "internvl"):
        # Those whose features of an image do not depend on how many there are.
        left = {**shorter(tiny, inputs, image), "attention_mask": torch.ones(1, int(real[0].sum())).long()}
        with apply(tiny.model, spec):
            alone = tiny.model(**left).logits[0]
        assert gap(ours[0, real[0]], alone) < 1e-5


def pixels_of(tiny, inputs, image: int) -> slice:
    """Where the pixels of an image of the first sample are."""
    each = 1
    if tiny.family == "qwen":
        each = int(inputs["image_grid_thw"][0].prod())
    elif tiny.family == "internvl":
        each = len(inputs["pixel_values"]) // 3
    return slice(image * each, (image + 1) * each)


def repainted(tiny, inputs, image: int) -> torch.Tensor:
    pixels = inputs["pixel_values"].clone()
    pixels[pixels_of(tiny, inputs, image)] += 1.0
    return pixels


def shorter(tiny, inputs, image: int) -> dict[str, torch.Tensor]:
    """The first sample without an image at all."""
    gone = Layout.from_mask(tiny.visual(inputs)).image_BN[0] == image
    stay = ~gone & inputs["attention_mask"][0].bool()
    pixels = inputs["pixel_values"]
    other = pixels[pixels_of(tiny, inputs, 1 - image)]
    return {"input_ids": inputs["input_ids"][:1, stay], "pixel_values": other}


@pytest.mark.parametrize(
    "spec",
    [*("divprune(keep=0.5)", "pool(factor=2)", "fastv(layer=1,keep=0.5)", SPECS[0]), *SPECS[3:5]],
)
@torch.no_grad()
def test_a_part_of_an_image_may_be_hidden(spec):
    tiny = tiny_llava_next()
    inputs = tiny.batch([[3, WIDE, 5]])
    mask = inputs["attention_mask"].clone()
    mask[0, 5:12] = 0
    with apply(tiny.model, spec) as handle, handle.tracing() as traces:
        logits = tiny.model(**(inputs | {"attention_mask": mask})).logits
    assert bool(logits[mask.bool()].isfinite().all())
    assert traces[0].layout.counts == ((30 - 7,),)


@torch.no_grad()
def test_where_every_image_is_hidden_the_model_is_left_alone():
    tiny = tiny_llava()
    inputs = tiny.batch(SAMPLES[1:2])
    given = inputs | {"attention_mask": inputs["attention_mask"] * ~tiny.visual(inputs)}
    stock = tiny.model(**given).logits
    for spec in SPECS:
        with apply(tiny.model, spec):
            assert torch.equal(tiny.model(**given).logits, stock)


def test_lengths_that_do_not_fit_name_the_mask():
    visual = torch.ones(1, 4).bool()
    with pytest.raises(ValueError, match="2 visual rows that its attention mask does not hide"):
        Layout.from_mask(visual, torch.tensor([[0, 0, 1, 1]]), [[4]])
