"""``saccade.check.run`` passes where everything is right: all families, and the embedded model."""

from __future__ import annotations

import json

import pytest
import torch

import saccade.check
from saccade.check.groups import GROUPS, RELEASED, RESIZED
from saccade.check.prompts import ask
from saccade.engine import attached
from support.checks import SAMPLES, loaded, prompts
from support.models import FACTORIES, RECURRENT, SQUARE, tiny_llava, tiny_qwen

FAMILIES = [
    "llava-llama", "llava_next-mistral", "llava_next_video", "llava_onevision", "internvl-qwen3",
    "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe", "glm4v_moe",
    "idefics3-llama", "lfm2_vl", "mistral3", "glm4v", "gemma3", "paligemma",
    "molmo2", "llama4",
]  # fmt: skip

PATCHES_LEAVE = (
    "qwen2_vl",
    "qwen2_5_vl",
    "qwen3_vl",
    "qwen3_vl_moe",
    "qwen3_5",
    "qwen3_5_moe",
    "glm4v",
    "glm4v_moe",
)
"""Families whose patches can leave before the tower."""


BEGINS = {
    "lfm2_vl": {"recurrent": lambda number: number == 0},
    "llama4": {"no_rope_layers": [1, 1, 0], "floor_scale": 3},
}
"""A short convolution, or a part of the prompt, at the end would hide from the last row what was skipped."""
OFTEN = ("llava-llama", "llava_next-mistral", "qwen2_5_vl", "gemma3", "idefics3-llama", "qwen3_5")


@pytest.mark.parametrize(
    "name",
    [
        name if name in OFTEN else pytest.param(name, marks=pytest.mark.long(instead="those asked often"))
        for name in FAMILIES
    ],
)
def test_every_family_passes_in_every_group(name):
    tiny = FACTORIES[name](layers=3, **BEGINS.get(name, {}))
    # One of them with every method: its rows between patches are where merges go wrong.
    report = saccade.check.run(loaded(tiny), prompts=prompts(tiny), every=name == "llava_next-mistral")
    assert report.passed, [(row.plan, row.why) for row in report.failures]
    stock, *rows = report.rows
    assert stock.group == "stock" and set(stock.outcomes) == {"choice", "batch", "cache"}
    # What a state was told does not leave it.
    assert {row.group for row in rows} == set(GROUPS) - ({RELEASED} if name in RECURRENT else set())
    for row in rows:
        if row.group == RESIZED:
            assert row.status == "not checked" and "no processor" in row.why
            continue
        if "pixelprune" in row.plan and name not in PATCHES_LEAVE:
            assert row.status == "refused" and "patches cannot leave before" in row.why
            continue
        assert row.status == "passed" and {"identical", "outputs", "batch", "cache"} <= set(row.outcomes)
        assert row.outcomes["outputs"].distance.worst < 1e-5
        # A plan that hardly does anything would let a wrong path through.
        assert row.effect > 100 * row.outcomes["outputs"].allowed.worst


def test_the_number_format_that_is_served_is_held_against_float32():
    tiny = tiny_qwen(layers=3, dtype=torch.bfloat16)
    report = saccade.check.run(loaded(tiny), "shortv(layers=1-2)", prompts=prompts(tiny))
    assert report.passed, [(row.plan, row.why) for row in report.failures]
    assert [(row.dtype, row.group) for row in report.rows] == [
        ("float32", "stock"),
        ("float32", "layers skipped"),
        ("bfloat16", "stock"),
        ("bfloat16", "layers skipped"),
    ]
    exact, served = (row.outcomes["outputs"] for row in report.rows[1::2])
    assert exact.distance.worst < 1e-5 < served.distance.worst < served.allowed.worst < 0.2


def test_the_first_layers_alone_and_the_model_is_as_it_was():
    tiny = tiny_llava(layers=4)
    before = tiny.model(**prompts(tiny).picture).logits
    said = []
    report = saccade.check.run(
        loaded(tiny), "vtw(layer=1)", prompts=prompts(tiny), layers=2, tell=said.append
    )
    assert report.passed and {row.layers for row in report.rows} == {2}
    assert (report.model["layers"], report.model["layers_checked"]) == (4, 2)
    assert "the first 2 checked" in said[0] and said[-1].startswith("about ")
    assert tiny.model.config.text_config.num_hidden_layers == len(tiny.model.model.language_model.layers) == 4
    assert attached(tiny.model) is None
    assert torch.equal(tiny.model(**prompts(tiny).picture).logits, before)


def test_a_plan_beyond_the_layers_that_are_checked_says_so():
    tiny = tiny_llava(layers=4)
    with pytest.raises(
        ValueError, match="past the model's 2 layers: of 4 layers only the first 2 are checked"
    ):
        saccade.check.run(loaded(tiny), "vtw(layer=3)", prompts=prompts(tiny), layers=2)


def test_what_the_model_cannot_do_is_told_and_is_no_failure():
    tiny = tiny_qwen(layers=3)
    report = saccade.check.run(loaded(tiny), "tome(r=2)", prompts=prompts(tiny))
    assert [row.plan for row in report.refusals] == ["tome(r=2)"]
    assert "tokens cannot merge inside the vision tower" in report.refusals[0].why
    assert not report.failures


def test_pictures_that_touch():
    tiny = tiny_llava(layers=3)
    samples = [SAMPLES[0], SAMPLES[1], [2, SQUARE, SQUARE, 3]]
    plan = "skip_vision(retained=0.5,cache=small)"
    report = saccade.check.run(loaded(tiny), plan, prompts=prompts(tiny, samples))
    assert report.passed, [(row.plan, row.why) for row in report.failures]


def test_a_report_is_plain_data():
    tiny = tiny_llava(layers=3)
    report = saccade.check.run(loaded(tiny), "fastv(layer=1,keep=0.5)", prompts=prompts(tiny))
    data = json.loads(json.dumps(report.to_dict()))
    assert data["passed"] is True and data["rows"][1]["status"] == "passed"
    assert data["model"]["visual_rows"] == 16 and data["model"]["family"] == "LLaVA-1.5"
    assert data["provenance"]["versions"]["torch"] == torch.__version__


def test_a_model_with_a_plan_on_it_is_refused():
    tiny = tiny_llava(layers=3)
    with saccade.apply(tiny.model, "vtw(layer=1)"), pytest.raises(ValueError, match="has a plan on it"):
        saccade.check.run(loaded(tiny), prompts=prompts(tiny))


def test_a_plan_that_does_not_fit_is_refused():
    tiny = tiny_llava(layers=3)
    with pytest.raises(ValueError, match="names layer 9"):
        saccade.check.run(loaded(tiny), "vskip(layers=9)", prompts=prompts(tiny))


def test_a_model_that_takes_pictures_alone_is_asked_about_pictures(monkeypatch):
    model = saccade.load("glance")
    plain = ask(model)
    assert plain.pictures == (1, 0, 2) and not plain.notes
    monkeypatch.setattr(type(model.family), "text_alone", False)
    bare = ask(model)
    assert bare.pictures == (1, 2) and len(bare.singles) == 2 and "plain tokens" in bare.notes[0]
    assert not bool(model.family.visual_mask(model.model, bare.text["input_ids"]).any())
    report = saccade.check.run(model, "vskip(layers=1)", prompts=bare, layers=3)
    assert report.passed, [(row.plan, row.why) for row in report.failures]
