"""Preset shapes are built at their width, as far as the memory goes; models are told from presets."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from saccade.core.shapes import SHAPES
from saccade.measure import shape_of, target

GIB = 2**30
BF16, CPU, GPU = torch.bfloat16, torch.device("cpu"), torch.device("cuda")


def test_every_preset_shape_has_a_family_that_gives_back_its_sizes():
    from saccade.families import FAMILIES

    for name, shape in SHAPES.items():
        family = FAMILIES[target.FAMILY_OF[name]]
        depth = shape.tower.layers if shape.tower else 1
        found = family.shape(family.config(shape, vision_layers=depth), name)
        assert replace(found, tower=shape.tower and found.tower) == shape


def test_a_built_toy_has_finite_distinct_weights_and_its_depth(each_toy):
    assert each_toy.shape.layers == each_toy.depth == 3 and not each_toy.real
    for name, parameter in each_toy.model.named_parameters():
        assert parameter.isfinite().all(), name
        if parameter.ndim >= 2 and min(parameter.shape) > 1:
            assert 0.01 < parameter.std() < 0.03, name
            assert not torch.equal(parameter[0], parameter[1]), name
        elif "norm" in name and name.endswith("weight"):
            assert (parameter == 1).all(), name
    assert each_toy.family.shape(each_toy.model.config).hidden == each_toy.shape.hidden


def test_rotary_tables_of_a_built_model_are_those_of_transformers(each_toy):
    reference = each_toy.family.model_class()(each_toy.model.config)
    mine = dict(each_toy.model.named_buffers())
    for name, buffer in reference.named_buffers():
        assert torch.equal(buffer, mine[name]), name


@pytest.mark.timeout(20)
def test_a_draw_that_is_repeated_until_it_fits_ends_whatever_memory_held():
    weight = torch.full((4, 8), 99.0)
    with target._Bare():
        torch.nn.init.trunc_normal_(weight, std=0.02)
    assert weight.abs().max() <= 2


def test_large_matrices_repeat_no_row():
    linear = torch.nn.Linear(4096, 2100, bias=True)
    target.fill_random(linear, seed=1)
    assert len(linear.weight[:, :8].unique(dim=0)) == 2100
    assert (linear.bias == 0).all()


def test_weights_depend_on_the_seed_alone(toy):
    first = [p.clone() for p in toy.model.parameters()]
    target.fill_random(toy.model, 1)
    assert any(not torch.equal(a, b) for a, b in zip(first, toy.model.parameters(), strict=True))
    target.fill_random(toy.model, 0)
    assert all(torch.equal(a, b) for a, b in zip(first, toy.model.parameters(), strict=True))


def test_the_estimate_covers_the_weights_of_the_papers_model():
    # 32 layers of 202 M and two matrices of 131 M: 6.74 G numbers, as LLaVA-1.5-7B's decoder has.
    need = target.memory_estimate(SHAPES["llava-1.5-7b"], 32, 1, 640, 2)
    assert 6.74e9 * 2 < need < 6.74e9 * 2 * 1.1


def test_layers_that_fit_grow_with_the_memory(monkeypatch):
    shape = SHAPES["llava-1.5-7b"]
    fits = [target.layers_that_fit(shape, 1, 640, 2, free * GIB) for free in (0.1, 2, 8, 80)]
    assert fits[0] == 0 and fits[0] < fits[1] < fits[2] < fits[3] == 32
    monkeypatch.setattr(target, "free_memory", lambda device: 8 * GIB)
    assert target.layers_to_build(shape, None, 1, 640, BF16, GPU) == fits[2]
    assert target.layers_to_build(shape, None, 1, 640, BF16, CPU) == 4
    assert target.layers_to_build(shape, 7, 1, 640, BF16, CPU) == 7
    with pytest.raises(ValueError, match=f"--layers {fits[2]} would fit"):
        target.layers_to_build(shape, 32, 1, 640, BF16, GPU)
    monkeypatch.setattr(target, "free_memory", lambda device: GIB // 10)
    with pytest.raises(ValueError, match="smaller --batch"):
        target.layers_to_build(shape, None, 1, 640, BF16, GPU)


def test_presets_and_model_folders_are_told_apart(llava, tmp_path):
    assert shape_of("qwen2.5-vl-7b") is SHAPES["qwen2.5-vl-7b"]
    llava.model.config.save_pretrained(tmp_path)
    found = shape_of(str(tmp_path))
    assert (found.layers, found.hidden, found.kv_heads, found.visual) == (4, 64, 4, 16)
    with pytest.raises(ValueError, match=r"no model 'llava-7b'.*preset shapes are llava-1\.5-7b"):
        shape_of("llava-7b")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty"):
        shape_of(str(tmp_path / "empty"))


def test_part_of_a_model_with_weights_is_not_built():
    with pytest.raises(ValueError, match="has weights and runs whole"):
        target.build("some/model", layers=2, batch=1, rows=8, dtype=BF16, device=CPU)


def test_a_part_of_a_shape_has_a_layer_with_attention():
    with pytest.raises(ValueError, match=r"first 3 layers of qwen3.5-9b are recurrent.* at least 4"):
        target.layers_to_build(SHAPES["qwen3.5-9b"], 2, 1, 64, torch.bfloat16, torch.device("cpu"))
