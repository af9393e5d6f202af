"""Which parameter belongs to which part, in every family."""

from __future__ import annotations

import pytest

from saccade.families import FAMILIES as ADAPTERS
from saccade.families import find
from saccade.models import Loaded, wrap
from saccade.training.config import PARTS, Optimisation
from saccade.training.parts import choose, groups, linear_names, needed, parts_of
from support.models import FACTORIES
from training.tiny import FAMILIES

SIGNS = {
    "llava": {"vision_tower": "tower", "multi_modal_projector": "projector", "language_model": "decoder"},
    "llava_next": {
        "vision_tower": "tower", "multi_modal_projector": "projector", "image_newline": "projector",
        "language_model": "decoder",
    },
    "qwen": {
        "visual.blocks": "tower", "visual.patch_embed": "tower", "visual.merger": "projector",
        "language_model": "decoder",
    },
    "llava_next_video": {
        "vision_tower": "tower", "multi_modal_projector": "projector", "image_newline": "projector",
        "language_model": "decoder",
    },
    "llava_onevision": {
        "vision_tower": "tower", "multi_modal_projector": "projector", "image_newline": "projector",
        "language_model": "decoder",
    },
    "internvl-qwen2": {
        "vision_tower": "tower", "multi_modal_projector": "projector", "language_model": "decoder",
    },
    "qwen2_vl": {
        "visual.blocks": "tower", "visual.patch_embed": "tower", "visual.merger": "projector",
        "language_model": "decoder",
    },
    "qwen3_vl": {
        "visual.blocks": "tower", "visual.patch_embed": "tower", "visual.pos_embed": "tower",
        "visual.merger": "projector", "visual.deepstack_merger": "projector", "language_model": "decoder",
    },
    "qwen3_vl_moe": {
        "visual.blocks": "tower", "visual.patch_embed": "tower", "visual.pos_embed": "tower",
        "visual.merger": "projector", "visual.deepstack_merger": "projector", "language_model": "decoder",
    },
    "qwen3_5": {
        "visual.blocks": "tower", "visual.patch_embed": "tower", "visual.pos_embed": "tower",
        "visual.merger": "projector", "language_model": "decoder",
    },
    "qwen3_5_moe": {
        "visual.blocks": "tower", "visual.patch_embed": "tower", "visual.pos_embed": "tower",
        "visual.merger": "projector", "language_model": "decoder",
    },
    "glm4v_moe": {
        "visual.blocks": "tower", "visual.patch_embed": "tower", "visual.embeddings": "tower",
        "visual.post_conv_layernorm": "tower", "visual.post_layernorm": "projector",
        "visual.downsample": "projector", "visual.merger": "projector", "language_model": "decoder",
    },
    "idefics3-llama": {"vision_model": "tower", "connector": "projector", "text_model": "decoder"},
    "smolvlm-llama": {"vision_model": "tower", "connector": "projector", "text_model": "decoder"},
    "lfm2_vl": {"vision_tower": "tower", "multi_modal_projector": "projector", "language_model": "decoder"},
    "llama4": {"vision_model": "tower", "multi_modal_projector": "projector", "language_model": "decoder"},
    "molmo2": {"vision_tower": "tower", "multi_modal_projector": "projector", "language_model": "decoder"},
    "mistral3": {"vision_tower": "tower", "multi_modal_projector": "projector", "language_model": "decoder"},
    "llava-pixtral": {
        "vision_tower": "tower", "multi_modal_projector": "projector", "language_model": "decoder",
    },
    "gemma3": {"vision_tower": "tower", "multi_modal_projector": "projector", "language_model": "decoder"},
    "paligemma": {
        "vision_tower": "tower", "multi_modal_projector": "projector", "language_model": "decoder",
    },
    "glm4v": {
        "visual.blocks": "tower", "visual.patch_embed": "tower", "visual.embeddings": "tower",
        "visual.post_conv_layernorm": "tower", "visual.post_layernorm": "projector",
        "visual.downsample": "projector", "visual.merger": "projector", "language_model": "decoder",
    },
}  # fmt: skip


def test_every_family_is_looked_at():
    models = [found(name).model for name in SIGNS]
    assert {id(find(model)) for model in models} == {id(family) for family in ADAPTERS.values()}


def found(name: str) -> Loaded:
    """A tiny model by name, with a processor where training tests have one."""
    return FAMILIES[name]() if name in FAMILIES else wrap(FACTORIES[name](layers=2).model, None)


@pytest.fixture(scope="module", params=SIGNS)
def named(request):
    return request.param, found(request.param)


def test_every_parameter_is_in_the_part_that_its_name_says(named):
    name, loaded = named
    parts = parts_of(loaded.model, loaded.family)
    found = {key: part for part, pairs in parts.items() for key, _ in pairs}
    assert found.keys() == dict(loaded.model.named_parameters()).keys()
    signs = SIGNS[name] | {"lm_head": "decoder"}
    for sign, part in signs.items():
        mine = [key for key in found if sign in key]
        assert mine and {found[key] for key in mine} == {part}, sign
    assert all(any(sign in key for sign in signs) for key in found)


def test_groups_have_rates_by_part_and_decay_on_matrices(named):
    _, loaded = named
    settings = Optimisation(
        batch=1, steps=1, lr=0.1, part_lr={"projector": 0.2, "tower": 0.3}, weight_decay=0.5
    )
    rates = {"tower": 0.3, "projector": 0.2, "decoder": 0.1}
    for trained in (("projector",), ("projector", "decoder"), PARTS):
        choose(loaded.model, loaded.family, trained)
        made = groups(loaded.model, loaded.family, settings)
        assert {group["part"] for group in made} == set(trained)
        chosen = [id(p) for group in made for p in group["params"]]
        assert sorted(chosen) == sorted(id(p) for p in loaded.model.parameters() if p.requires_grad)
        for group in made:
            assert group["lr"] == rates[group["part"]]
            assert group["weight_decay"] == (0.5 if group["params"][0].ndim >= 2 else 0.0)
    choose(loaded.model, loaded.family, ())
    with pytest.raises(ValueError, match="nothing trains"):
        groups(loaded.model, loaded.family, settings)


def test_checkpoints_need_what_trains_and_the_projector(named):
    _, loaded = named
    choose(loaded.model, loaded.family, ("decoder",))
    parts = parts_of(loaded.model, loaded.family)
    want = {name for part in ("projector", "decoder") for name, _ in parts[part]}
    assert set(needed(loaded.model, loaded.family)) == want


def test_linear_layers_of_the_decoder_can_be_named(named):
    name, loaded = named
    names = linear_names(loaded.model, loaded.family, ())
    # Experts are no linear layers (but one that all rows pass, and its gate), and GLM has gate and up in one.
    each = {"qwen3_vl_moe": 4, "glm4v": 6, "qwen3_5_moe": 8}.get(name, 7)
    # A layer that recurs has five beside its FFN, or two and a convolution; attention has four.
    more = {"qwen3_5": 1, "qwen3_5_moe": 1, "lfm2_vl": -2}.get(name, 0)
    assert len(names) == each * len(loaded.family.parts(loaded.model).layers) + more
    some = linear_names(loaded.model, loaded.family, ("q_proj",))
    assert some == [name for name in names if name.endswith("q_proj")]
    assert not [name for name in names if "vis" in name or "lm_head" in name]
