"""Skip-Vision in training: its own modules train, its folder loads, and a run resumes like any other."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file

from saccade import models
from saccade.training import build as building
from saccade.training import checkpoints, train
from saccade.training.collate import Collator
from training.test_resume import back_to
from training.test_run import lines, open_pool
from training.tiny import settings

SKIPS = "model.skip_vision={layout: llava, retained: 5, merged: 6}"


def tensors(folder):
    """All tensors of a model folder, those of its parts included."""
    found = sorted(folder.rglob("*.safetensors"))
    return {f"{path.parent.name}/{name}": t for path in found for name, t in load_file(path).items()}


@pytest.mark.parametrize(
    "change", [(), ("lora.rank=2", "optimisation.checkpointing=true")], ids=["all", "lora"]
)
def test_a_run_resumes_bit_by_bit_and_its_folder_loads(here, change):
    config = settings(here, SKIPS, *change)
    train(config)
    shutil.copytree(here / "run", here / "whole")
    back_to(here, 2)
    train(config, resume=True)
    want, got = tensors(here / "whole" / "model"), tensors(here / "run" / "model")
    assert want and want.keys() == got.keys()
    assert all(torch.equal(tensor, got[name]) for name, tensor in want.items())
    assert [line["loss"] for line in lines(here)] == [line["loss"] for line in lines(here, "whole")]


def test_the_saved_model_is_the_trained_one(here, monkeypatch):
    kept = []
    real = building.save
    monkeypatch.setattr(
        building, "save", lambda loaded, skips, folder: (kept.append(loaded), real(loaded, skips, folder))
    )
    train(settings(here, SKIPS))
    again = models.load(str(here / "run" / "model"))
    inputs = Collator(again, 200, always_image=False)([open_pool(here).load(2, 0)]).inputs
    # 5 retained, 6 merged, two summaries, for each of two images.
    assert int((inputs["input_ids"] == 3).sum()) == 2 * (5 + 6 + 2)
    with torch.no_grad():
        assert torch.equal(again.model(**inputs).logits, kept[0].model(**inputs).logits)


def test_the_first_stage_trains_the_projector_and_the_scorer(here):
    train(settings(here, SKIPS, "train_modules=[projector]", "optimisation.batch=6", "keep=9"))
    first, last = (load_file(checkpoints.found(here / "run")[n] / checkpoints.WEIGHTS) for n in (0, -1))
    assert not [name for name in last if "language_model" in name or "vision_tower" in name]
    still = {name for name in last if torch.equal(first[name], last[name])}
    # The scorer's own bias cancels in its softmax.
    assert len(last) >= 7 and all(name.endswith("bias") for name in still) and len(still) <= 1


def test_settings_that_cannot_be_read_stop_the_run_first(here):
    shutil.rmtree(here / "model")
    with pytest.raises(ValueError, match="colour"):
        train(settings(here, "model.skip_vision={colour: red}"))
