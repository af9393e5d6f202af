"""Adapters: trained, checkpointed, merged; what is saved is a plain model with the trained logits."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from saccade import models
from saccade.training import build as building
from saccade.training import checkpoints, train
from saccade.training.collate import Collator
from training.test_run import open_pool, weights
from training.tiny import settings


def inputs_of(loaded, here):
    batch = Collator(loaded, 200, always_image=False)([open_pool(here).load(n, 0) for n in range(3)])
    return {key: value for key, value in batch.inputs.items() if key != "labels"}


@pytest.mark.parametrize("plan", [None, "shortv(layers=1-2)"])
def test_the_merged_model_has_the_logits_that_were_trained(here, monkeypatch, plan):
    logits = []

    def finish(built, given, config, real=building.finish):
        if built.plan is not None:
            built.plan.remove()
        with torch.no_grad():
            logits.append(built.model.eval()(**inputs_of(built.loaded, here)).logits)
        return real(built, given, config)

    monkeypatch.setattr(building, "finish", finish)
    train(settings(here, "lora.rank=4", "optimisation.lr=0.05", *([f"plan={plan}"] if plan else [])))
    assert not [name for name in weights(here) if "lora" in name or "base_layer" in name]
    loaded, before = models.load(str(here / "run" / "model")), models.load(str(here / "model"))
    with torch.no_grad():
        got = loaded.model(**inputs_of(loaded, here)).logits
        stock = before.model(**inputs_of(before, here)).logits
    torch.testing.assert_close(got, logits[0], atol=1e-4, rtol=1e-4)
    assert (got - stock).abs().max() > 0.1


def test_targets_are_what_changes_beside_the_projector(here):
    train(settings(here, "lora.rank=2", "lora.targets=[v_proj, down_proj]"))
    before, after = load_file(here / "model" / "model.safetensors"), weights(here)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name.split(".")[-2] for name in changed} == {"v_proj", "down_proj", "linear_1", "linear_2"}
    assert len([name for name in changed if "proj." in name]) == 2 * 4
    assert not [name for name in changed if "vision_tower" in name]


def test_a_checkpoint_holds_adapters_and_projector_alone(here):
    outcome = train(settings(here, "lora.rank=2"))
    held = load_file(checkpoints.found(here / "run")[-1] / checkpoints.WEIGHTS)
    assert held and all("lora_" in name or "multi_modal_projector" in name for name in held)
    decoder = outcome.report["parameters"]["decoder"]
    assert 0 < decoder["trained"] < 0.2 * decoder["parameters"]


def test_adapters_on_what_is_not_there_are_refused(here):
    with pytest.raises(ValueError, match=r"lora\.targets: no linear layer 'c_attn'; there are .*q_proj"):
        train(settings(here, "lora.targets=[c_attn]"))
