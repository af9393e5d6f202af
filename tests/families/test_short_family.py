"""A family whose decoder is Llama-like is a few lines: what the base class answers serves most plans."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import transformers as T

import saccade
from saccade.families import FAMILIES, Family, find, register
from saccade.families.base import text_sizes
from support.models import IMAGE, SQUARE, Tiny, tiny_llava
from support.reference import gap, recompute

SAMPLES = [[3, SQUARE, 5], [2, SQUARE, 1, SQUARE, 4]]


class Short(Family):
    """ViP-LLaVA, as CONTRIBUTING has it."""

    name = "ViP-LLaVA"
    model_types = ("vipllava",)
    text_types = ("llama",)

    def config(self, shape, layers=None, vision_layers=1):
        return T.VipLlavaConfig(
            text_config=T.LlamaConfig(**text_sizes(shape, layers, 4096)),
            vision_config=T.CLIPVisionConfig(num_hidden_layers=vision_layers),
            image_token_index=min(32000, shape.vocab - 1),
            vision_feature_layers=[-1],
        )

    def model_class(self):
        return T.VipLlavaForConditionalGeneration


@pytest.fixture
def tiny() -> Iterator[Tiny]:
    register(Short)
    try:
        like = tiny_llava().model.config
        config = T.VipLlavaConfig(
            vision_config=like.vision_config,
            text_config=like.text_config,
            image_token_index=IMAGE,
            vision_feature_layers=[-1, -2],
        )
        torch.manual_seed(0)
        yield Tiny("vipllava", T.VipLlavaForConditionalGeneration(config).eval(), "llava")
    finally:
        FAMILIES._met.pop("vipllava", None)


@torch.no_grad()
@pytest.mark.parametrize(
    ("plan", "recipe"),
    [
        ("vskip(layers=1-2)", [("vskip", (1, 2))]),
        ("shortv(layers=1)+vtw(layer=2)", [("shortv", (1,)), ("vtw", (2, 3))]),
    ],
)
def test_layers_of_a_family_of_a_few_lines_equal_the_masked_reference(tiny, plan, recipe):
    given = tiny.batch(SAMPLES)
    with saccade.apply(tiny.model, plan):
        ours = tiny.model(**given).logits
    assert gap(ours, recompute(tiny.model, recipe, given).logits, given["attention_mask"]) < 1e-4


@torch.no_grad()
def test_rows_are_chosen_without_a_map_of_the_picture_and_what_needs_one_says_so(tiny):
    given = tiny.batch(SAMPLES)
    for plan in ("fastv(layer=1,keep=4)", "divprune(keep=4)", "uniform(keep=4)"):
        with saccade.apply(tiny.model, plan) as handle, handle.tracing() as traces:
            tiny.model(**given)
        assert [len(rows) for rows in traces[0].kept(3)] == [4, 8], plan
    with pytest.raises(ValueError, match="cannot be looked into"):
        saccade.apply(tiny.model, "fastervlm(keep=4)")
    with (
        saccade.apply(tiny.model, "pool(factor=2)"),
        pytest.raises(ValueError, match="where the visual rows lie"),
    ):
        tiny.model(**given)
    family = find(tiny.model)
    assert family.typical_visual(tiny.model.config) == 16 and family.visual_ids(tiny.model.config) == (IMAGE,)
    with pytest.raises(ValueError, match="one size only"):
        family.smaller(None, [], 0.5)
    with pytest.raises(ValueError, match="cannot be looked at"):
        family.tower_heads(torch.nn.Identity(), torch.zeros(1), {}, False)
