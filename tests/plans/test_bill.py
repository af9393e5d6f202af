"""The whole bill: tower, projector, decoder and head in closed form, against what torch counts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as T

import saccade
from saccade.core.layout import Layout
from saccade.core.pricing import Cost, cost
from saccade.core.route import Route
from saccade.core.shapes import SHAPES
from saccade.core.tower import Tiling, pictures_of, shrunk
from saccade.families import find
from saccade.families.tower_shape import cells_of
from saccade.measure.counter import dispatched_flops
from saccade.plans.bill import Bill, bill, bill_of_prompt
from saccade.plans.budget import price_prompt
from saccade.plans.plan import Plan
from support.models import BANNER, BIG, FACTORIES, ROTARY_WITHIN, SQUARE, TALL, WIDE, Tiny, tiny_llava

MODELS = [
    "llava-llama", "llava_next-llama", "llava_next_video", "llava_onevision", "qwen2_vl", "qwen2_5_vl",
    "qwen3_vl", "internvl-qwen2", "qwen3_vl_moe", "glm4v", "idefics3-llama", "gemma3", "paligemma",
    "llava-pixtral", "mistral3", "llama4", *(["molmo2"] if "molmo2" in FACTORIES else []),
]  # fmt: skip
SAMPLES = [[3, SQUARE, 5], [2, WIDE, 1, TALL, 3], [1, BIG, 4], [1, BANNER, 2]]
HUB = Path(__file__).parents[1] / "rehearsal" / "checkpoints"
PRESETS = {
    "llava-1.5-7b": "llava-1.5-7b-hf",
    "llava-next-13b": "llava-v1.6-vicuna-13b-hf",
    "llava-next-video-7b": "LLaVA-NeXT-Video-7B-hf",
    "llava-onevision-7b": "llava-onevision-qwen2-7b-ov-hf",
    "qwen2-vl-7b": "Qwen2-VL-7B-Instruct",
    "qwen2.5-vl-7b": "Qwen2.5-VL-7B-Instruct",
    "qwen3-vl-8b": "Qwen3-VL-8B-Instruct",
    "internvl3-8b": "InternVL3-8B-hf",
    "qwen3-vl-30b-a3b": "Qwen3-VL-30B-A3B-Instruct",
    "glm-4.1v-9b": "GLM-4.1V-9B-Thinking",
    "qwen3.5-9b": "Qwen3.5-9B",
    "qwen3.5-35b-a3b": "Qwen3.5-35B-A3B",
    "glm-4.5v": "GLM-4.5V",
    "gemma-3-4b": "gemma-3-4b-it",
    "paligemma2-3b": "paligemma2-3b-mix-448",
    "pixtral-12b": "pixtral-12b",
    "mistral-small-3.1-24b": "Mistral-Small-3.1-24B-Instruct-2503",
    "llama-4-scout": "Llama-4-Scout-17B-16E-Instruct",
    **({"molmo2-8b": "Molmo2-8B"} if "molmo2" in FACTORIES else {}),
    "smolvlm-256m": "SmolVLM-256M-Instruct",
    "smolvlm2-2.2b": "SmolVLM2-2.2B-Instruct",
}


def near(flops: int) -> Any:
    """The same number, but for what early releases count beside."""
    return pytest.approx(flops, rel=ROTARY_WITHIN, abs=0)


def tilings(tiny: Tiny, given: dict) -> list[Tiling]:
    family = find(tiny.model)
    picture = family.picture(tiny.model, given)
    tower = family.shape(tiny.model.config).tower
    assert picture is not None and tower is not None
    return cells_of(picture, tower)


def told(tiny: Tiny, given: dict, plan: Plan, route: Route) -> Bill:
    shape = find(tiny.model).shape(tiny.model.config)
    found = bill(plan, shape, cost(shape, route), tilings(tiny, given))
    assert found is not None
    return found


def among_pictures(tiny: Tiny, given: dict) -> int:
    """What Pixtral's tower does in vain where a prompt has several pictures: pairs of them, and padding."""
    vision = tiny.model.config.vision_config
    if vision.model_type != "pixtral":
        return 0
    sizes = [
        (int(high) // vision.patch_size, int(wide) // vision.patch_size)
        for high, wide in given["image_sizes"]
    ]
    patches, (height, width) = [high * wide for high, wide in sizes], given["pixel_values"].shape[-2:]
    padded = len(sizes) * (height // vision.patch_size) * (width // vision.patch_size) - sum(patches)
    pairs = sum(patches) ** 2 - sum(n * n for n in patches)
    embedded = 2 * 3 * vision.patch_size**2 * vision.hidden_size * padded
    return embedded + 4 * vision.hidden_size * pairs * vision.num_hidden_layers


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_the_stock_models_bill_is_what_torch_counts(name):
    tiny = FACTORIES[name]()
    for sample in SAMPLES:
        given = tiny.batch([sample])
        layout = Layout.from_mask(tiny.visual(given), given["attention_mask"])
        mine = told(tiny, given, Plan(), Route.dense(layout, 4))
        counted = dispatched_flops(lambda given=given: tiny.model(**given, logits_to_keep=1))
        told_flops = round(mine.tflops * 1e12)
        assert counted - among_pictures(tiny, given) == near(told_flops), sample
        assert told_flops == round(mine.dense_tflops * 1e12)


PLANS = ["fastervlm(keep=0.5,share=image)", "vskip(layers=0-2)", "fastv(layer=2,keep=0.5)"]


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_a_plans_bill_is_what_torch_counts_looks_at_the_tower_included(name):
    tiny = FACTORIES[name]()
    merging = ["tome(r=2)"] if name in ("llava-llama", "llava_next-llama", "llava_onevision") else []
    if "merge_patches" in find(tiny.model).tower_can:
        merging += ["tome(r=2,unmerge=true)"]
    for spec in PLANS + merging:
        given, plan = tiny.batch([[3, SQUARE, 5]]), Plan.of(spec)
        with saccade.apply(tiny.model, plan) as handle, handle.tracing(sources=False) as traces:
            counted = dispatched_flops(lambda given=given: tiny.model(**given, logits_to_keep=1))
        mine = told(tiny, given, plan, traces[0].route)
        assert counted == near(round(mine.tflops * 1e12)), spec
        assert (mine.tower_tflops != mine.dense_tower_tflops) == (
            spec[:4] in ("fast", "tome", "hipr") and "v(" not in spec
        )


@torch.no_grad()
def test_a_siglip_tower_with_a_head_and_features_of_several_layers():
    config = tiny_llava().model.config
    config.vision_config = T.SiglipVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=2, image_size=32,
        patch_size=8,
    )  # fmt: skip
    config.vision_feature_select_strategy, config.vision_feature_layer = "full", [-2, -1]
    model = T.LlavaForConditionalGeneration(config).eval()
    tiny = replace(tiny_llava(), model=model)
    given = tiny.batch([[3, SQUARE, 5]])
    mine = told(tiny, given, Plan(), Route.dense(Layout.from_mask(tiny.visual(given)), 4))
    counted = dispatched_flops(lambda: model(**given, logits_to_keep=1))
    assert counted == near(round(mine.tflops * 1e12))


@torch.no_grad()
def test_a_lower_resolution_shrinks_the_tower_as_much_as_the_tower_that_runs():
    tiny, plan = tiny_llava(), Plan.of("resize(scale=0.5)")
    given = tiny.batch([[3, SQUARE, 5]])
    small = tiny.batch([[3, SQUARE, 5]])
    small["pixel_values"] = small["pixel_values"][..., :16, :16]
    keep = torch.ones_like(small["input_ids"][0], dtype=torch.bool)
    keep[tiny.visual(small)[0].nonzero()[4:, 0]] = False
    small |= {key: small[key][:, keep] for key in ("input_ids", "attention_mask")}
    with saccade.apply(tiny.model, plan):
        counted = dispatched_flops(lambda: tiny.model(**small, logits_to_keep=1))
    mine = told(tiny, given, plan, Route.dense(Layout.from_mask(tiny.visual(small)), 4))
    assert counted == near(round(mine.tflops * 1e12))
    assert mine.dense_tower_tflops > 3 * mine.tower_tflops


def test_fewer_rows_are_a_smaller_view_or_fewer_views():
    assert shrunk(((24.0, 24.0),), 144) == ((12.0, 12.0),)
    assert shrunk(((16.0, 16.0),) * 13, 7 * 256) == ((16.0, 16.0),) * 7
    assert shrunk(((3.0, 5.0),), 15) == ((3.0, 5.0),) and shrunk((), 3) == ()


@pytest.mark.parametrize(("preset", "name"), PRESETS.items())
def test_presets_have_the_towers_of_the_checkpoints(preset, name, tmp_path):
    held = json.loads((HUB / f"{name}.json").read_text())["files"]["config.json"]
    (tmp_path / "config.json").write_text(json.dumps(held))
    config = T.AutoConfig.from_pretrained(tmp_path)
    assert find(config).shape(config).tower == SHAPES[preset].tower


def priced(name: str, spec: str, visual: int) -> tuple[Cost, Bill]:
    shape, plan = SHAPES[name], Plan.of(spec)
    found = price_prompt(plan, shape, visual, 66.6)
    whole = bill_of_prompt(plan, shape, found, visual)
    assert whole is not None
    return found, whole


def test_the_tower_of_a_large_picture_is_a_third_and_then_two_thirds():
    _, dense = priced("qwen2.5-vl-7b", "dense", 1280)
    assert dense.tower_tflops == pytest.approx(7, abs=0.3) and dense.decoder_tflops == pytest.approx(
        18, abs=0.5
    )
    assert not dense.tower_is_bottleneck and dense.verdict == "" and dense.ratio == 1
    _, cut = priced("qwen2.5-vl-7b", "divprune(keep=0.2)", 1280)
    assert cut.tower_is_bottleneck and f"{100 * cut.tower_share:.0f} %" in cut.verdict
    assert cut.ratio > 1.5 * cut.decoder_tflops / cut.dense_decoder_tflops
    assert "take a method that does not look" not in cut.verdict
    _, dearer = priced("qwen2.5-vl-7b", "fastervlm(keep=1279)", 1280)
    assert dearer.ratio > 1 and f"{100 * dearer.ratio:.1f} % of the dense model's" in dearer.verdict
    _, small = priced("qwen2.5-vl-7b", "resize(scale=0.5)", 1280)
    assert not small.tower_is_bottleneck and small.ratio < 0.3


def test_several_pictures_of_one_size_are_as_many_views():
    tower = SHAPES["llava-1.5-7b"].tower
    assert tower is not None
    two = Layout.from_mask(torch.ones(1, 1152).bool(), image_lengths=[[576, 576]])
    assert pictures_of(tower, two) == [((24.0, 24.0),)] * 2
    assert tower.views(1152) == ((24.0, 24.0),) * 2


def test_a_prompt_without_pictures_has_no_tower_in_its_bill():
    _, text = priced("llava-1.5-7b", "divprune()", 0)
    assert text.tower_tflops == text.projector_tflops == text.tower_share == 0 and text.ratio == 1
