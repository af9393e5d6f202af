"""Engines that would not run a plan exactly do not start."""

from __future__ import annotations

from dataclasses import replace

import pytest

from saccade.plans.plan import Plan
from saccade.vllm.environment import VARIABLE, from_environment
from saccade.vllm.serving import TESTED, Serving, check_serving, check_version
from saccade.vllm.work import ServedModel, work_of

ALWAYS = {
    "pipeline": 2,
    "data": 2,
    "context": 2,
    "speculative": True,
    "lora": True,
    "full_graphs": True,
    "broken_graphs": True,
    "microbatches": True,
    "ready_prompts": True,
    "cache_dtype": "fp8",
    "task": "pooling",
    "transformers": True,
}
DROPPING = {"prefix_caching": True, "transfers": True}
CHOOSING = {"tower_graphs": True, "ready_embeddings": True, "prunes_videos": True}
LOOKING = {"tower_compiled": True, "tower_shared_out": True}


def check(spec: str, **changed) -> None:
    check_serving(work_of(Plan.of(spec), ServedModel(4)), replace(Serving(), **changed))


@pytest.mark.parametrize("spec", ["vskip(layers=1)", "vtw(layer=2)", "divprune(keep=4)"])
@pytest.mark.parametrize("setting", ALWAYS)
def test_settings_that_no_plan_is_served_with(spec, setting):
    with pytest.raises(ValueError, match="saccade: ") as refusal:
        check(spec, **{setting: ALWAYS[setting]})
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("setting", {**DROPPING, **CHOOSING})
def test_settings_that_hang_on_what_the_plan_does(setting):
    value = {**DROPPING, **CHOOSING}[setting]
    refused = "vtw(layer=2)" if setting in DROPPING else "divprune(keep=4)"
    others = {"vskip(layers=1)", "vtw(layer=2)", "divprune(keep=4)"} - {refused}
    with pytest.raises(ValueError, match=r"leave|start with"):
        check(refused, **{setting: value})
    for spec in others:
        check(spec, **{setting: value})


@pytest.mark.parametrize("setting", LOOKING)
def test_settings_in_which_the_vision_tower_does_not_show_what_plans_look_at(setting):
    served = replace(Serving(), **{setting: LOOKING[setting]})
    shown = ServedModel(4, shows=True)
    with pytest.raises(ValueError, match="looks into the vision tower"):
        check_serving(work_of(Plan.of("fastervlm(keep=4)"), shown), served)
    check_serving(work_of(Plan.of("divprune(keep=4)"), shown), served)


def test_gaps_in_positions_do_not_leave_the_engine():
    with pytest.raises(ValueError, match="gaps in positions"):
        check("random(keep=0.5)", transfers=True)


def test_a_plain_engine_serves_every_plan():
    for spec in ("vskip(layers=1)", "vtw(layer=2)", "divprune(keep=4)", "random(keep=0.5)"):
        check(spec)
        check(spec, prefix_caching=spec != "vtw(layer=2)")


@pytest.mark.parametrize("version", ["0.32.0", "0.32.1", "0.32.0+cpu", "0.32"])
def test_tested_versions(version):
    check_version(version)


@pytest.mark.parametrize("version", ["0.31.9", "0.33.0", "0.320.0", "1.0", "dev"])
def test_versions_outside_the_range_are_refused_with_the_range(version):
    with pytest.raises(ValueError, match=rf"0\.32\.x .*{TESTED}") as refusal:
        check_version(version)
    assert version in str(refusal.value)


def test_the_environment_says_a_plan_or_nothing(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert from_environment() == ""
    monkeypatch.setenv(VARIABLE, " vskip(layers=1) ")
    assert from_environment() == "vskip(layers=1)"
