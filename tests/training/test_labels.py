"""Steps without a label: they move nothing and count for no loss, and a run of nothing else is an error."""

from __future__ import annotations

import itertools
import json

import pytest
import torch

from saccade.training import build as building
from saccade.training import train
from saccade.training.mixture import RecordMixture, Stream
from saccade.training.records import BadRecord
from saccade.training.sources import open_source
from training.test_resume import back_to
from training.test_run import lines, weights
from training.tiny import RECORDS, data_set, said, settings

STRONG = ("optimisation.weight_decay=0.5", "optimisation.schedule=constant", "optimisation.warmup=0")
SKIP = ("on_bad_record=skip", "optimisation.batch=1", *STRONG)


def spoilt(here, good: int):
    """A file whose first records are good and all others have an image that does not decode."""
    bad = [{"image": "torn.png", "conversations": said("<image> ?", f"no {n}")} for n in range(6 - good)]
    path = data_set(here / "data", [*RECORDS[:good], *bad])
    (here / "data" / "torn.png").write_bytes(b"no image")
    return path


@pytest.mark.parametrize("why", ["images", "length"])
@pytest.mark.parametrize("steps", [2, 9])
def test_a_run_without_a_label_fails_and_saves_nothing(here, why, steps):
    change = [*SKIP, f"optimisation.steps={steps}", "save_every=99"]
    if why == "images":
        spoilt(here, good=0)
    else:
        change.append("optimisation.max_length=3")
    with pytest.raises(ValueError, match=r"nothing to train on: .*, for example: .*data\.json, index \d"):
        train(settings(here, *change))
    assert not (here / "run" / "model").exists() and not (here / "run" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("modules", "named"),
    [("[projector]", "the projector"), ("[tower,projector]", "the tower and the projector")],
)
def test_what_sees_is_not_trained_on_text_alone(here, modules, named):
    """It would end as it began, with a loss to show for it."""
    data_set(here / "data", [record for record in RECORDS if "image" not in record])
    with pytest.raises(ValueError, match=f"no record has an image, and {named} cannot learn from text"):
        train(settings(here, f"train_modules={modules}"))
    assert not (here / "run" / "run.json").exists()
    assert train(settings(here, "optimisation.steps=1")).finished
    data_set(here / "data")
    assert train(settings(here, f"train_modules={modules}", f"out={here / 'seen'}")).finished


def labels_of(here, steps: int) -> list[bool]:
    """Whether the record of each step can be used."""
    config = settings(here)
    mixture = RecordMixture([open_source(source, 0, True) for source in config.data], 0)
    return [not isinstance(mixture[key], BadRecord) for key in Stream(mixture, steps)]


def test_a_step_without_a_label_moves_no_weight(here, monkeypatch):
    """Momentum and weight decay are there, and pass it over."""
    spoilt(here, good=3)
    seen = []

    def build(config, real=building.build):
        built = real(config)
        name = next(n for n, p in built.model.named_parameters() if p.requires_grad and p.ndim == 2)
        parameter = dict(built.model.named_parameters())[name]
        built.model.register_forward_pre_hook(lambda *_: seen.append(parameter.detach().clone()))
        return built

    monkeypatch.setattr(building, "build", build)
    train(settings(here, *SKIP, "optimisation.steps=6"))
    usable = labels_of(here, 6)
    moved = [not torch.equal(a, b) for a, b in itertools.pairwise(seen)]
    assert moved == usable[:-1] and True in moved and False in moved[moved.index(True) :]


def test_the_loss_of_a_line_is_the_mean_over_the_steps_with_labels(here):
    spoilt(here, good=3)
    train(settings(here, *SKIP))
    train(settings(here, *SKIP, "logging_every=6", f"out={here / 'other'}"))
    losses, usable = [line["loss"] for line in lines(here)], labels_of(here, 6)
    assert [loss is not None for loss in losses] == usable
    found = [loss for loss in losses if loss is not None]
    assert lines(here, "other")[0]["loss"] == pytest.approx(sum(found) / len(found), rel=1e-6)


def test_a_bad_record_is_counted_once_however_often_it_was_met(here):
    spoilt(here, good=4)
    refused = train(settings(here, *SKIP, "optimisation.steps=18")).report["refused"]
    assert refused["on_the_way"] == 2 == len(refused["examples"])


@pytest.mark.long(instead="test_resume.py::test_resumed_equals_uninterrupted_bit_by_bit")
def test_resumed_where_steps_have_no_labels(here):
    spoilt(here, good=3)
    config = settings(here, *SKIP, "logging_every=4", "save_every=1")
    train(config)
    want, said_before = weights(here), [line["loss"] for line in lines(here)]
    for step in (5, 3, 1):
        back_to(here, step)
        assert train(config, resume=True).report["refused"]["on_the_way"] == 3
        assert [line["loss"] for line in lines(here)] == said_before
        assert all(torch.equal(tensor, want[name]) for name, tensor in weights(here).items())


def test_weights_that_are_no_numbers_are_not_saved(here, monkeypatch):
    """The last step breaks them, so that no later loss shows it."""
    real = torch.optim.AdamW.step

    def step(self, *args, **kwargs):
        found = real(self, *args, **kwargs)
        for parameter in self.param_groups[-1]["params"]:
            parameter.data.fill_(float("nan"))
        return found

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    with pytest.raises(ValueError, match=r"weights are no numbers after step 1 .*lower the learning rate"):
        train(settings(here, "optimisation.steps=1"))
    assert not (here / "run" / "model").exists()
    assert not list((here / "run").glob("checkpoints/checkpoint-*"))


def test_a_plan_of_a_lower_resolution_shortens_what_is_trained_on(here):
    """Sixteen rows an image are four at half of each side."""
    train(settings(here, "optimisation.batch=6", "optimisation.steps=1"))
    change = ("plan=resize(scale=0.5)", "optimisation.batch=6", "optimisation.steps=1")
    train(settings(here, *change, f"out={here / 'small'}"))
    found = [lines(here)[0], lines(here, "small")[0]]
    rows = [line["tokens_per_second"] * line["step_seconds"] for line in found]
    images = sum(len(r["image"]) if isinstance(r.get("image"), list) else "image" in r for r in RECORDS)
    assert rows[0] - rows[1] == pytest.approx(12 * images, abs=1)
    assert json.loads((here / "small" / "run.json").read_text("utf-8"))["finished"]
